"""Joining labels to the user's data: in any order, with anything beside it, or an error that says what is missing."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, KeyMissing
from softlabels.loading import Loader
from softlabels.loading.key_index import key_index
from softlabels.sources import id_keys, open_source
from softlabels.store import Store
from tests.loading.stores import random_logits, write_store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    folder = tmp_path / "cache" / "softlabels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    return folder / "keys"


@pytest.fixture
def reads(monkeypatch):
    """The chunks that were read, counted."""
    counted = []
    plain = Store.read_chunk

    def counting(store, number, *arguments, **options):
        counted.append(number)
        return plain(store, number, *arguments, **options)

    monkeypatch.setattr(Store, "read_chunk", counting)
    return counted


def test_a_superset_with_other_columns_in_another_order(sealed, digits, tmp_path):
    """A hundred rows are unknown: an error names them; left out, a line says so."""
    order = np.random.default_rng(0).permutation(1797)
    known = digits.inputs(order)
    images = np.concatenate([digits.inputs(np.arange(100)) + 100, known])
    np.savez(tmp_path / "more.npz", comment=np.arange(1897), image=images)
    source = open_source(tmp_path / "more.npz")
    store = sl.open(sealed)
    with pytest.raises(
        KeyMissing, match=r"100 of 1,897 rows of .*row 0 \([0-9a-f]{32}\).*uint8 inputs of shape \(8, 8\)"
    ):
        Loader(store, inputs=source)
    loader = Loader(store, inputs=source, missing="drop", check="all", batch_size=300)
    joined = loader.items.joined
    assert joined.missing.tolist() == list(range(100))
    assert joined.report() == (
        "1,797 examples with 1,797 labels; 100 rows of the data have no label, 0 rows of the store are not used"
    )
    seen = [row for batch in loader for row in batch.rows.tolist()]
    assert sorted(seen) == list(range(100, 1897))
    for batch in loader:
        np.testing.assert_array_equal(batch.targets["logits"].ids, store.read(order[batch.rows - 100]).ids)


def test_the_index_is_built_once_kept_and_verified(tmp_path, cache, reads):
    store = write_store(tmp_path / "s", random_logits(300), keys=id_keys(range(300)))
    built = key_index(store)
    assert len(reads) == store.chunks
    (path,) = cache.iterdir()
    assert path.name == f"{store.snapshot.digest}.index", "it can be no other store's"
    again = key_index(sl.open(tmp_path / "s"))
    assert len(reads) == store.chunks, "read from the cache"
    np.testing.assert_array_equal(again.rows, built.rows)
    for damage in (lambda data: data[:-1], lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], lambda _: b""):
        path.write_bytes(damage(path.read_bytes()))
        reads.clear()
        np.testing.assert_array_equal(key_index(store).keys, built.keys)
        assert len(reads) == store.chunks, "a damaged one is made again"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    store = write_store(tmp_path / "s", random_logits(100))
    assert len(key_index(store).rows) == 100


def test_equal_fingerprints_need_no_index(sealed, digits, cache, reads):
    loader = Loader(sl.open(sealed), inputs=digits, check="off")
    assert loader.items.joined is None
    assert reads == []
    assert not cache.exists()


def test_rows_are_found_by_id(tmp_path, digits_path):
    table = pq.read_table(digits_path).slice(0, 50)
    named = table.append_column("name", pa.array([f"image-{i}" for i in range(50)]))
    pq.write_table(named.take(np.arange(50)[::-1]), tmp_path / "named.parquet")
    source = open_source(tmp_path / "named.parquet", id="name")
    store = write_store(tmp_path / "s", random_logits(50), keys=id_keys([f"image-{i}" for i in range(50)]))
    for batch in Loader(store, inputs=source, batch_size=20):
        np.testing.assert_array_equal(batch.targets["logits"].ids, store.read(49 - batch.rows).ids)


def test_all_views_of_an_example_are_found_and_one_is_drawn(tmp_path):
    """Draws are a function of (seed, epoch, example): each view comes up, equally often, over many epochs."""
    names = np.repeat(id_keys(range(40)), 3, axis=0)
    store = write_store(tmp_path / "s", random_logits(120), keys=names, views=np.tile([0, 1, 2], 40))
    every = Loader(store, batch_size=50)
    assert sorted(row for batch in every for row in batch.rows) == list(range(120))
    drawn = Loader(store, views="one", batch_size=50, seed=1)
    counts = np.zeros(120, int)
    for epoch in range(60):
        batches = list(drawn.epoch(epoch))
        rows = np.concatenate([batch.rows for batch in batches])
        np.testing.assert_array_equal(np.concatenate([batch.views for batch in batches]), rows % 3)
        assert sorted(rows // 3) == list(range(40)), "one of each example"
        counts[rows] += 1
        again = [batch.rows for batch in Loader(store, views="one", batch_size=50, seed=1, rank=0).epoch(epoch)]
        np.testing.assert_array_equal(np.concatenate(again), rows)
    assert counts.min() > 5, "twenty are expected of each"
    with pytest.raises(InvalidArgument, match="Leave rows= out"):
        Loader(store, views="one", rows=np.arange(3))
