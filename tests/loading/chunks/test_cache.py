"""Chunks stay decoded as far as memory allows, and rows are those of the store whatever is in the cache."""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels.errors import InvalidArgument, StoreCorrupt
from softlabels.labels import Head
from softlabels.loading import Ensemble, Loader
from softlabels.loading.chunks.cache import ChunkCache
from tests.loading.stores import memory_for, random_logits, write_store

NAMES = ["key", "logits/values", "logits/ids", "logits/tail"]
CHUNK_BYTES = 32 * (16 + 8 + 4 + 8)
"""Bytes of these columns in a chunk of 32 rows of top-4."""
WINDOW = 2


def make(root, *, ragged, seed=0):
    if not ragged:
        return write_store(root, random_logits(300, seed=seed), unit_rows=100, chunk_rows=32)
    logits = [random_logits(row % 7, 20, seed=seed + row) for row in range(300)]
    head = Head(encoding="adaptive:0.05:f16", classes=20, kind="tokens", shape=(None,), temperatures=(1.0, 2.0))
    return write_store(root, logits, head=head, unit_rows=100, chunk_rows=32)


@pytest.fixture(params=["plain", "ragged"])
def store(request, tmp_path):
    return make(tmp_path / "s", ragged=request.param == "ragged")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("cache") / "plain", random_logits(500), unit_rows=200, chunk_rows=32)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    logits = [random_logits(row % 7, 20, seed=row) for row in range(300)]
    head = Head(encoding="topk:4:f16", classes=20, kind="tokens", shape=(None,), temperatures=(1.0, 2.0))
    return write_store(tmp_path_factory.mktemp("cache") / "r", logits, head=head, unit_rows=100, chunk_rows=32)


def count_reads(store, monkeypatch):
    """Return a list that grows by the number of each chunk that is read."""
    numbers = []
    read_chunk = store.read_chunk
    monkeypatch.setattr(
        store,
        "read_chunk",
        lambda number, *args, **options: numbers.append(number) or read_chunk(number, *args, **options),
    )
    return numbers


def expect_labels(store, batches):
    """Check the labels of an epoch and return its rows."""
    everything = store.read(range(store.rows))
    rows = []
    for batch in batches:
        np.testing.assert_array_equal(
            batch.targets["logits"].log_probs(2.0), everything.take(batch.rows).log_probs(2.0)
        )
        rows += batch.rows.tolist()
    assert sorted(rows) == list(range(store.rows))
    return rows


@pytest.mark.parametrize("memory", [1, 5_000, 2**20])
@pytest.mark.parametrize("kind", ["plain", "ragged"])
def test_any_rows_in_any_order_are_those_of_the_store(request, kind, memory):
    """More chunks than fit, few of them, none; the same row twice; and again after pickling."""
    store = request.getfixturevalue(kind)
    cache = ChunkCache(store, NAMES, memory)
    rng = np.random.default_rng(0)
    for count in (1, 0, 300, 40, 2, 300):
        rows = rng.integers(0, store.rows, count)
        expected = store.take(rows, NAMES if kind == "plain" else [*NAMES, "logits/length"])
        for one in (cache, pickle.loads(pickle.dumps(cache))):  # noqa: S301  our own bytes
            columns = one.gather(rows)
            assert set(columns) == set(expected), "columns that count entries are included"
            for name, array in columns.items():
                np.testing.assert_array_equal(array, expected[name])
                assert array.dtype == expected[name].dtype


@given(
    requests=st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=60), min_size=1, max_size=6),
    memory=st.integers(1, 40_000),
)
@settings(max_examples=40)
def test_gathers_are_right_and_bounded_for_any_sequence_of_requests(ragged, requests, memory):
    """Ragged chunks of other sizes replace one another; memory is at most what is granted, or one chunk."""
    cache = ChunkCache(ragged, NAMES, memory)
    largest = max(
        sum(array.nbytes for array in ragged.read_chunk(chunk, [*NAMES, "logits/length"]).values())
        for chunk in range(ragged.chunks)
    )
    for request in requests:
        rows = np.array(request)
        columns = cache.gather(rows)
        for name, array in ragged.take(rows, [*NAMES, "logits/length"]).items():
            np.testing.assert_array_equal(columns[name], array)
        assert cache.bytes <= max(2 * memory, 2 * largest), "twice, because of gaps between chunks of other sizes"


def test_a_cached_chunk_is_not_read_again_and_the_least_recently_used_is_evicted(plain, monkeypatch):
    reads = count_reads(plain, monkeypatch)
    cache = ChunkCache(plain, NAMES, 3 * CHUNK_BYTES)
    for row in (0, 32, 64, 1, 33, 65):
        cache.gather(np.array([row]))
    assert reads == [0, 1, 2]
    cache.gather(np.array([2]))  # chunk 1 is now the least recently used
    cache.gather(np.array([96]))
    cache.gather(np.array([0, 65, 97]))
    assert reads == [0, 1, 2, 3]
    cache.gather(np.array([34]))
    assert reads == [0, 1, 2, 3, 1]
    assert cache.chunk_reads == 5


def test_pinned_chunks_are_not_evicted_and_released_ones_are(plain):
    cache = ChunkCache(plain, NAMES, 3 * CHUNK_BYTES)
    lease = cache.lease(np.array([0, 1]))
    lease.load()
    assert cache.has_room(1)
    assert not cache.has_room(2)
    for chunk in (5, 6, 7):
        cache.gather(np.array([32 * chunk]))
    rows = np.array([3, 40])
    expected = plain.take(rows, NAMES)["logits/values"]
    np.testing.assert_array_equal(lease.gather(np.array([0, 1]), rows)["logits/values"], expected)
    lease.release()
    assert cache.has_room(3)


def test_readers_that_pin_everything_do_not_block_another(plain):
    """It gets memory of its own, as much as is granted to one reader."""
    cache = ChunkCache(plain, NAMES, 2 * CHUNK_BYTES)
    first = cache.lease(np.array([0, 1]))
    first.load()
    second = cache.lease(np.array([2, 3]))
    second.ready()
    rows = np.array([64, 100])
    expected = plain.take(rows, NAMES)["logits/ids"]
    np.testing.assert_array_equal(second.gather(np.array([0, 1]), rows)["logits/ids"], expected)
    assert cache.bytes == 4 * CHUNK_BYTES
    with pytest.raises(InvalidArgument, match="too small for 3 chunks"):
        cache.lease(np.array([0, 1, 2]))


def test_a_damaged_chunk_is_an_error_each_time_and_others_stay_readable(tmp_path):
    store = write_store(tmp_path / "s", random_logits(200), unit_rows=100, chunk_rows=50)
    expected = store.read(range(100))
    shard = next((tmp_path / "s" / "shards").rglob("00000001-*"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    cache = ChunkCache(store, NAMES, 2 * 50 * (16 + 8 + 4 + 8))
    for _ in range(3):
        with pytest.raises(StoreCorrupt):
            cache.gather(np.array([0, 100]))
        columns = cache.gather(np.arange(100))
        np.testing.assert_array_equal(columns["logits/values"], expected.values.astype(np.float16))


def test_two_threads_that_need_a_chunk_decode_it_once(plain, monkeypatch):
    """One reads while the other waits for it."""
    reads = count_reads(plain, monkeypatch)
    cache = ChunkCache(plain, NAMES, 2**20)
    with ThreadPoolExecutor(4) as pool:
        leases = [cache.lease(np.arange(plain.chunks), pool) for _ in range(4)]
        list(pool.map(lambda lease: lease.ready(), leases))
    assert sorted(reads) == list(range(plain.chunks))


def test_a_forked_child_starts_with_an_empty_cache(plain):
    """The parent's loads never finish in the child, so it must not wait for them."""
    cache = ChunkCache(plain, NAMES, 2**20)
    gate = threading.Event()
    read_chunk = plain.read_chunk
    pool = ThreadPoolExecutor(1)
    pool.submit(gate.wait)
    lease = cache.lease(np.array([0]), pool)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            plain.read_chunk = read_chunk
            expected = plain.take(np.array([5]), NAMES)["logits/ids"]
            status = int(not np.array_equal(cache.gather(np.array([5]))["logits/ids"], expected))
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0
    gate.set()
    lease.ready()
    pool.shutdown()


def test_a_store_that_fits_is_read_once_and_a_larger_one_in_every_epoch(store):
    fitting = Loader(store, batch_size=16, window=WINDOW)
    larger = Loader(store, batch_size=16, window=WINDOW, memory=memory_for(store, WINDOW))
    orders = [[expect_labels(store, loader.epoch(epoch)) for epoch in range(3)] for loader in (fitting, larger)]
    assert orders[0] == orders[1], "the order does not depend on memory"
    assert fitting.statistics.chunk_reads == store.chunks
    # A chunk of the last window of an epoch may also be in the first window of the next one.
    assert 3 * store.chunks - 2 * WINDOW <= larger.statistics.chunk_reads <= 3 * store.chunks
    assert larger.statistics.bytes_held <= 1.5 * memory_for(store, WINDOW)


def long_rows(root):
    """A store whose labels are far larger decoded than compressed."""
    logits = [np.zeros((50, 20), np.float32)] * 300
    head = Head(encoding="topk:8:f16", classes=20, kind="tokens", shape=(None,))
    return write_store(root, logits, head=head, unit_rows=100, chunk_rows=32)


def test_ragged_columns_count_as_memory(tmp_path):
    """Compressed the store is smaller than the memory granted; decoded it is not."""
    store = long_rows(tmp_path / "s")
    granted = memory_for(store, WINDOW)
    assert store.bytes < granted < 300 * 50 * 8 * 3
    loader = Loader(store, batch_size=16, window=WINDOW, memory=granted)
    for epoch in range(3):
        rows = []
        for batch in loader.epoch(epoch):
            np.testing.assert_array_equal(batch.targets["logits"].ids, store.read(batch.rows).ids)
            rows += batch.rows.tolist()
            assert loader.statistics.bytes_held <= 1.5 * granted, "gaps are at most one of its two chunks"
        assert sorted(rows) == list(range(300))
    assert loader.statistics.chunk_reads >= 3 * (store.chunks - WINDOW)


def test_a_window_of_ragged_rows_above_the_memory_is_an_error(tmp_path):
    store = long_rows(tmp_path / "s")
    loader = Loader(store, batch_size=16, window=4, memory=memory_for(store, 2))
    with pytest.raises(InvalidArgument, match=r"memory: too small for a window of 4 chunks.*Use a larger memory="):
        list(loader.epoch(0))


def test_a_window_of_plain_rows_above_the_memory_is_an_error_at_once(tmp_path):
    store = make(tmp_path / "s", ragged=False)
    with pytest.raises(InvalidArgument, match="Use a larger memory= or window=3"):
        Loader(store, batch_size=16, window=4, memory=memory_for(store, 3))


def test_readers_of_one_loader_share_the_cache_and_may_leave(store, monkeypatch):
    """One leaves when it has requested everything; others that waited for the same chunks get them nevertheless."""
    read_chunk, gate = store.read_chunk, threading.Event()

    def slow(number, *args, **options):
        gate.wait(0.02)
        return read_chunk(number, *args, **options)

    monkeypatch.setattr(store, "read_chunk", slow)
    loader = Loader(store, batch_size=16, window=store.chunks, threads=1)
    leaving, staying = loader.epoch(0), loader.epoch(1)
    next(leaving)
    fresh = Loader(store, batch_size=16, window=store.chunks, threads=1)
    first, second = fresh.items.iterate(0, 0), fresh.items.iterate(1, 0)
    first.close()
    gate.set()
    rows = second.read(store.rows)
    assert sorted(rows.store_rows.tolist()) == list(range(store.rows))
    expected = store.take(rows.store_rows, store.head_columns("logits"))
    for name, array in expected.items():
        np.testing.assert_array_equal(rows.columns[0][name], array)
    second.close()
    leaving.close()
    expect_labels(store, staying)


@pytest.mark.parametrize("windows", [1, 3])
def test_interleaved_iterators_with_little_memory_return_their_own_rows(store, windows):
    loader = Loader(store, batch_size=16, window=WINDOW, memory=memory_for(store, windows * WINDOW))
    epochs = [list(batches) for batches in zip(*(loader.epoch(epoch) for epoch in range(3)), strict=True)]
    for epoch in range(3):
        expect_labels(store, [batches[epoch] for batches in epochs])


def test_damage_is_an_error_until_it_is_repaired(store):
    """A failed chunk is tried again; the others stay in the cache."""
    shard = next((Path(str(store.storage)) / "shards").rglob("00000001-*"))
    intact = shard.read_bytes()
    damaged = bytearray(intact)
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    loader = Loader(store, batch_size=16, window=WINDOW)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="softlabels repair"):
            list(loader.epoch(0))
    shard.write_bytes(intact)
    expect_labels(store, loader.epoch(0))
    expect_labels(store, loader.epoch(1))


def test_damage_in_skipped_windows_is_not_noticed(store, monkeypatch):
    """A reader that starts behind it reads other windows, alone as among ranks."""
    loader = Loader(store, batch_size=16, window=WINDOW, memory=memory_for(store, WINDOW))
    last = list(loader.epoch(0))[-1]
    starts = np.concatenate([[0], np.cumsum(store.chunk_rows())])
    needed = set((np.searchsorted(starts, last.rows, side="right") - 1).tolist())
    read_chunk = store.read_chunk

    def damaged(number, *args, **options):
        if number not in needed:
            raise StoreCorrupt(f"chunk {number} is damaged")
        return read_chunk(number, *args, **options)

    assert len(needed) <= WINDOW, "the last batch lies in the last window"
    loader = Loader(store, batch_size=16, window=WINDOW, memory=memory_for(store, WINDOW))
    monkeypatch.setattr(store, "read_chunk", damaged)
    iterator = loader.items.iterate(0, 0)
    iterator.skip(store.rows - len(last))
    assert iterator.read(len(last)).store_rows.tolist() == last.rows.tolist()
    iterator.close()
    with pytest.raises(StoreCorrupt):
        list(loader.epoch(0))


def test_another_process_gets_the_configuration_and_no_memory(store):
    loader = Loader(store, batch_size=16, window=WINDOW)
    before = len(pickle.dumps(loader))
    rows = [batch.rows.tolist() for batch in loader.epoch(0)]
    after = pickle.dumps(loader)
    assert abs(len(after) - before) < 1000
    again = pickle.loads(after)  # noqa: S301  our own bytes
    assert [batch.rows.tolist() for batch in again.epoch(0)] == rows
    assert again.statistics.chunk_reads == store.chunks


def test_the_stores_of_an_ensemble_share_the_memory(tmp_path):
    stores = [make(tmp_path / str(seed), ragged=False, seed=seed) for seed in range(2)]
    one = memory_for(stores[0], stores[0].chunks)
    for granted, fits in ((one, False), (2 * one + 64, True)):
        loader = Loader(Ensemble(stores), batch_size=16, window=WINDOW, memory=granted)
        for epoch in range(2):
            list(loader.epoch(epoch))
        assert (loader.statistics.chunk_reads == 2 * stores[0].chunks) == fits
        assert loader.statistics.bytes_held <= granted


def test_divided_memory_decides_whether_a_store_is_read_once(store):
    """Eight processes that hold an eighth of the memory each would leave none."""
    for processes, fits in ((2, True), (1000, False)):
        loader = Loader(store, batch_size=16, window=WINDOW, memory=2 * 10**5 * processes if fits else 2**21)
        loader.items.divide_memory(processes)
        if not fits and store.descriptor.heads["logits"].ragged:
            continue  # a window of ragged rows above the memory is an error
        for epoch in range(2):
            expect_labels(store, loader.epoch(epoch))
        assert (loader.statistics.chunk_reads == store.chunks) == fits


def test_long_rows_in_the_first_chunk_do_not_make_a_store_too_large(tmp_path):
    """The size of the first chunk is a guess for the others, and no more memory than granted is reserved for it."""
    logits = [random_logits(400 if row < 16 else 2, seed=row) for row in range(640)]
    head = Head(encoding="topk:4:f16", classes=20, kind="tokens", shape=(None,))
    store = write_store(tmp_path / "s", logits, head=head, unit_rows=320, chunk_rows=16)
    loader = Loader(store, batch_size=64, shuffle=False, window=4, memory=2**21)
    for epoch in range(3):
        rows = [row for batch in loader.epoch(epoch) for row in batch.rows.tolist()]
        assert rows == list(range(640))
        assert loader.statistics.chunk_reads == store.chunks
