"""A store that fits into memory is read once; what is handed out is the same as of one that does not."""

import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from softlabels.errors import StoreCorrupt
from softlabels.labels import Head
from softlabels.loading import Ensemble, Loader
from softlabels.loading.adapters import torch_datasets
from softlabels.loading.adapters.torch_datasets import LabelStream
from softlabels.loading.chunks import budget
from softlabels.loading.chunks.budget import LEAST, MOST, default_memory
from tests.loading.stores import memory_for, random_logits, write_store

WINDOW = 2


@pytest.fixture(params=["plain", "ragged"])
def store(request, tmp_path):
    return made(tmp_path / "s", ragged=request.param == "ragged")


def made(root, *, ragged, seed=0):
    if not ragged:
        return write_store(root, random_logits(300, seed=seed), unit_rows=100, chunk_rows=32)
    logits = [random_logits(row % 7, 20, seed=seed + row) for row in range(300)]
    head = Head(encoding="adaptive:0.05:f16", classes=20, kind="tokens", shape=(None,), temperatures=(1.0, 2.0))
    return write_store(root, logits, head=head, unit_rows=100, chunk_rows=32)


def counted(store, monkeypatch):
    """The chunks that are read, as they are."""
    read = []
    real = store.read_chunk
    monkeypatch.setattr(
        store, "read_chunk", lambda number, *args, **options: read.append(number) or real(number, *args, **options)
    )
    return read


def expect_right(store, batches):
    everything = store.read(range(store.rows))
    seen = []
    for batch in batches:
        np.testing.assert_array_equal(
            batch.targets["logits"].log_probs(2.0), everything.take(batch.rows).log_probs(2.0)
        )
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(store.rows))
    return seen


def test_what_fits_is_read_once_and_what_does_not_in_every_epoch(store, monkeypatch):
    read = counted(store, monkeypatch)
    kept = Loader(store, batch_size=16, window=WINDOW)
    windows = Loader(store, batch_size=16, window=WINDOW, memory=memory_for(store, WINDOW))
    orders = []
    for loader, times in ((kept, 1), (windows, 3)):
        read.clear()
        batches = [list(loader.epoch(epoch)) for epoch in range(3)]
        assert sorted(read) == sorted(list(range(store.chunks)) * times)
        orders.append([expect_right(store, epoch) for epoch in batches])
    assert orders[0] == orders[1]


def test_ragged_rows_that_turn_out_not_to_fit_are_read_in_windows(tmp_path, monkeypatch):
    """Compressed the store is smaller than the memory granted; decoded it is not, which shows as it is read."""
    logits = [np.zeros((50, 20), np.float32)] * 300
    head = Head(encoding="topk:8:f16", classes=20, kind="tokens", shape=(None,))
    store = write_store(tmp_path / "s", logits, head=head, unit_rows=100, chunk_rows=32)
    granted = store.bytes + 1000
    assert granted < 300 * 50 * 8 * 3
    loader = Loader(store, batch_size=16, window=WINDOW, memory=granted)
    read = counted(store, monkeypatch)
    (tables,) = loader.items._tables
    assert tables.whole
    for epoch in range(3):
        everything = store.read(range(store.rows))
        read.clear()
        for batch in loader.epoch(epoch):
            np.testing.assert_array_equal(batch.targets["logits"].log_probs(), everything.take(batch.rows).log_probs())
        assert sorted(set(read)) == list(range(store.chunks))
    assert not tables.whole
    assert tables._whole is None, "and the memory is given up"


def test_readers_of_one_loader_share_what_is_kept_and_may_leave(store, monkeypatch):
    """One leaves when it has asked for everything; others that waited for the same chunks get them all the same."""
    read = counted(store, monkeypatch)
    real, gate = store.read_chunk, threading.Event()

    def slow(number, *args, **options):
        gate.wait(0.02)
        return real(number, *args, **options)

    monkeypatch.setattr(store, "read_chunk", slow)
    loader = Loader(store, batch_size=16, window=store.chunks, threads=1)
    leaving, staying = loader.epoch(0), loader.epoch(1)
    next(leaving)
    fresh = Loader(store, batch_size=16, window=store.chunks, threads=1)
    first, second = fresh.items.walk(0, 0), fresh.items.walk(1, 0)
    first.close()
    gate.set()
    taken = second.take(store.rows)
    assert sorted(taken.store_rows.tolist()) == list(range(store.rows))
    expected = store.take(taken.store_rows, store.head_columns("logits"))
    for name, array in expected.items():
        np.testing.assert_array_equal(taken.columns[0][name], array)
    second.close()
    leaving.close()
    expect_right(store, staying)
    assert len(read) >= 2 * store.chunks


def test_damage_is_an_error_until_it_is_mended(store):
    """What could not be read is tried again; what was read stays good."""
    shard = next((Path(str(store.storage)) / "shards").rglob("00000001-*"))
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    loader = Loader(store, batch_size=16, window=WINDOW)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="softlabels repair"):
            list(loader.epoch(0))
    shard.write_bytes(whole)
    expect_right(store, loader.epoch(0))
    expect_right(store, loader.epoch(1))


def test_another_process_gets_no_memory_but_the_way_to_fill_it(store):
    loader = Loader(store, batch_size=16, window=WINDOW)
    before = len(pickle.dumps(loader))
    rows = [batch.rows.tolist() for batch in loader.epoch(0)]
    after = pickle.dumps(loader)
    assert abs(len(after) - before) < 1000
    again = pickle.loads(after)  # noqa: S301  our own bytes
    assert [batch.rows.tolist() for batch in again.epoch(0)] == rows


def test_teachers_of_an_ensemble_are_kept_together_or_not(tmp_path, monkeypatch):
    stores = [made(tmp_path / str(seed), ragged=False, seed=seed) for seed in range(2)]
    read = [counted(store, monkeypatch) for store in stores]
    one = memory_for(stores[0], stores[0].chunks)
    for granted, times in ((one, 2), (2 * one + 64, 1)):
        loader = Loader(Ensemble(stores), batch_size=16, window=WINDOW, memory=granted)
        for each in read:
            each.clear()  # an ensemble looks at a row
        for epoch in range(2):
            list(loader.epoch(epoch))
        assert [len(each) for each in read] == [times * store.chunks for store in stores]


def test_memory_where_nobody_says_is_a_share_of_what_is_free(tmp_path, monkeypatch):
    """The machine's, the control group's of either version, the process's own; within bounds."""
    monkeypatch.setattr(budget, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(budget, "CGROUP", tmp_path)
    monkeypatch.setattr(budget.resource, "getrlimit", lambda _: (budget.resource.RLIM_INFINITY, 0))
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   16777216 kB\nHugePages_Total:       0\n")
    assert default_memory() == 2**31
    assert default_memory(4) == 2**29
    assert default_memory(16) == LEAST
    assert default_memory(64) == 2**27, "half of a process's part"
    (tmp_path / "memory.max").write_text("max\n")
    assert default_memory() == 2**31
    (tmp_path / "memory.max").write_text(f"{9 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**30}\n")
    assert default_memory() == 2**30
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{4 * 2**30}\n")
    assert default_memory() == 2**29
    (tmp_path / "status").write_text("VmSize:   3145728 kB\nVmData:   1048576 kB\n")
    monkeypatch.setattr(budget, "STATUS", tmp_path / "status")
    limits = {budget.resource.RLIMIT_AS: 6 * 2**30, budget.resource.RLIMIT_DATA: 4 * 2**30 + 2**28}
    monkeypatch.setattr(budget.resource, "getrlimit", lambda kind: (limits[kind], 0))
    assert default_memory() == 3 * 2**27, "3 GiB of address space are left, and more of data"
    limits[budget.resource.RLIMIT_DATA] = 2**30 + 2**28
    assert default_memory() == 2**27, "half of what is left is less than 256 MiB"
    limits[budget.resource.RLIMIT_DATA] = 2**20
    assert default_memory() == 0
    monkeypatch.undo()
    assert 0 < default_memory() <= MOST


def test_memory_is_asked_of_a_machine_that_does_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MEMINFO", tmp_path / "none")
    assert 0 < default_memory() <= MOST


def test_damage_in_what_is_skipped_harms_nobody(store, monkeypatch):
    """Who goes to a position behind it reads other windows, in one process as among ranks."""
    loader = Loader(store, batch_size=16, window=WINDOW, memory=memory_for(store, WINDOW))
    last = list(loader.epoch(0))[-1]
    starts = np.concatenate([[0], np.cumsum(store.chunk_rows())])
    needed = set((np.searchsorted(starts, last.rows, side="right") - 1).tolist())
    real = store.read_chunk

    def damaged(number, *args, **options):
        if number not in needed:
            raise StoreCorrupt(f"chunk {number} is damaged")
        return real(number, *args, **options)

    monkeypatch.setattr(store, "read_chunk", damaged)
    assert len(needed) <= WINDOW, "the last batch lies in the last window"
    walk = loader.items.walk(0, 0)
    walk.skip(store.rows - len(last))
    assert walk.take(len(last)).store_rows.tolist() == last.rows.tolist()
    walk.close()
    with pytest.raises(StoreCorrupt):
        list(loader.epoch(0))


def test_workers_of_a_stream_divide_what_one_process_would_take(store, monkeypatch):
    """Eight processes that keep an eighth of the memory each would leave none."""
    monkeypatch.setattr(budget, "default_memory", lambda _: 2**21)
    for said, wholes in ((None, [True, False]), (2**21, [True, True])):
        for workers, whole in zip((2, 1000), wholes, strict=True):
            loader = Loader(store, batch_size=16, window=WINDOW, memory=said)
            stream = LabelStream(loader)
            info = SimpleNamespace(id=0, num_workers=workers)
            monkeypatch.setattr(torch_datasets, "get_worker_info", lambda info=info: info)
            for epoch in range(2):
                stream.set_epoch(epoch)
                list(stream)
            assert loader.items._tables[0].whole == whole


def test_small_chunks_are_read_by_one_thread_and_large_ones_by_several(monkeypatch):
    """Unless somebody says how many; a loader without a store reads none."""
    monkeypatch.setattr(budget, "cores", lambda: 3)
    small, large = (SimpleNamespace(bytes=10 * size, chunks=10) for size in (2**18 - 1, 2**18))
    assert [budget.default_threads(stores) for stores in ([small], [large], [], [small, large])] == [1, 3, 3, 1]
    monkeypatch.setattr(budget, "cores", lambda: 64)
    assert budget.default_threads([large]) == 4


def test_a_first_chunk_of_long_rows_does_not_make_a_store_too_large(tmp_path, monkeypatch):
    """What is set aside after the first chunk is a guess, and no more than was granted."""
    logits = [random_logits(400 if row < 16 else 2, seed=row) for row in range(640)]
    head = Head(encoding="topk:4:f16", classes=20, kind="tokens", shape=(None,))
    store = write_store(tmp_path / "s", logits, head=head, unit_rows=320, chunk_rows=16)
    read = counted(store, monkeypatch)
    loader = Loader(store, batch_size=64, shuffle=False, window=4, memory=2**21)
    for epoch in range(3):
        read.clear()
        rows = [row for batch in loader.epoch(epoch) for row in batch.rows.tolist()]
        assert rows == list(range(640))
        assert len(read) == (store.chunks if epoch == 0 else 0)
    assert loader.items._tables[0].whole


COLLECTED = """
import gc, sys, threading, time
import softlabels as sl

loader = sl.loader(sl.open(sys.argv[1]), batch_size=16, window=2)
gc.set_threshold(50)  # so that it runs everywhere: on our threads, and between a lock and its release
for turn in range(60):
    batches = [loader.epoch(0), loader.stream(), loader.produce(0, 0)][turn % 3]
    next(batches)
    cycle = [batches]
    cycle.append(cycle)
    del batches, cycle
gc.collect()
until = time.monotonic() + 20
while any(name.startswith("softlabels-") and name != "softlabels-ending" for name in
          [thread.name for thread in threading.enumerate()]) and time.monotonic() < until:
    time.sleep(0.01)
print(sorted({thread.name for thread in threading.enumerate()}))
"""


def test_iterators_that_the_collector_finds_end_without_waiting_for_each_other(store):
    """They lie in cycles, so it closes them wherever it runs; all their threads end, and so does the process."""
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED, str(store.storage)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "['MainThread', 'softlabels-ending']"
