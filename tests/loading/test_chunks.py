"""Random access holds chunks as far as memory goes, and hands out the same rows whatever it holds."""

import pickle

import numpy as np
import pytest

from softlabels.errors import StoreCorrupt
from softlabels.labels import Head
from softlabels.loading.chunks.random_access import PlainChunks, RaggedChunks, chunks
from tests.loading.stores import random_logits, write_store

NAMES = ["key", "logits/values", "logits/ids", "logits/tail"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("chunks") / "plain", random_logits(500), unit_rows=200, chunk_rows=32)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    logits = [random_logits(row % 7, 20, seed=row) for row in range(300)]
    head = Head(encoding="topk:4:f16", classes=20, kind="tokens", shape=(None,), temperatures=(1.0, 2.0))
    root = tmp_path_factory.mktemp("chunks") / "ragged"
    return write_store(root, logits, head=head, unit_rows=100, chunk_rows=32)


@pytest.mark.parametrize("memory", [1, 5_000, 2**20])
@pytest.mark.parametrize("kind", ["plain", "ragged"])
def test_any_rows_in_any_order_are_those_of_the_store(request, kind, memory):
    """More chunks than are held, some of them, none; the same row twice; and again after pickling."""
    store = request.getfixturevalue(kind)
    held = chunks(store, NAMES, memory)
    assert type(held) is {"plain": PlainChunks, "ragged": RaggedChunks}[kind]
    rng = np.random.default_rng(0)
    for count in (1, 0, 300, 40, 2, 300):
        rows = rng.integers(0, store.rows, count)
        expected = store.take(rows, NAMES if kind == "plain" else [*NAMES, "logits/length"])
        for each in (held, pickle.loads(pickle.dumps(held))):  # noqa: S301  our own bytes
            found = each.take(rows)
            assert set(found) == set(expected), "what counts the entries of a row comes with them"
            for name, array in found.items():
                np.testing.assert_array_equal(array, expected[name])
                assert array.dtype == expected[name].dtype


def test_a_chunk_is_read_once_while_it_is_held_and_the_oldest_makes_room(plain, monkeypatch):
    read = []
    real = plain.read_chunk
    monkeypatch.setattr(
        plain, "read_chunk", lambda number, *args, **options: read.append(number) or real(number, *args, **options)
    )
    held = chunks(plain, NAMES, 3 * 32 * (16 + 8 + 4 + 8))
    for row in (0, 32, 64, 1, 33, 65):
        held.take(np.array([row]))
    assert read == [0, 1, 2]
    held.take(np.array([2]))  # 1 is now the one that was used longest ago
    held.take(np.array([96]))
    held.take(np.array([0, 65, 97]))
    assert read == [0, 1, 2, 3]
    held.take(np.array([34]))
    assert read == [0, 1, 2, 3, 1]


def test_a_chunk_that_is_damaged_is_an_error_each_time_and_harms_no_other(tmp_path):
    store = write_store(tmp_path / "s", random_logits(200), unit_rows=100, chunk_rows=50)
    expected = store.read(range(100))
    shard = next((tmp_path / "s" / "shards").rglob("00000001-*"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    held = chunks(store, NAMES, 2 * 50 * (16 + 8 + 4 + 8))
    for _ in range(3):
        with pytest.raises(StoreCorrupt):
            held.take(np.array([0, 100]))
        found = held.take(np.arange(100))
        np.testing.assert_array_equal(found["logits/values"], expected.values.astype(np.float16))
