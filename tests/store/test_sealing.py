"""Sealing: one snapshot of every committed unit, whoever seals at the same time."""

import shutil
from contextlib import suppress

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import StorageFailed, StoreIncomplete
from softlabels.labels import Head
from softlabels.store.format import paths
from softlabels.store.storage.posix import PosixStorage

HEADS = {"logits": Head(encoding="dense:f16", classes=3)}


class Stopped(Exception):
    """Leaves a writer without sealing."""


def append(writer, first):
    """Append four rows."""
    writer.append(list(range(first, first + 4)), {"logits": np.zeros((4, 3), np.float32)})


def unsealed(root, rows=4):
    """Make a growing store with or without rows and leave it unsealed."""
    with suppress(Stopped), sl.create(root, heads=HEADS, teacher="t", unit_rows=4) as writer:
        for first in range(0, rows, 4):
            append(writer, first)
        raise Stopped
    return root


def test_the_rows_of_a_writer_are_in_the_snapshot_it_returns(tmp_path, monkeypatch):
    """Another process, which has not seen the last unit, publishes the next snapshot first."""
    root, other = unsealed(tmp_path / "s"), tmp_path / "other"
    shutil.copytree(root, other)
    sl.seal(other)
    writer = sl.create(root, heads=HEADS, teacher="t", unit_rows=4)
    append(writer, 4)
    real = PosixStorage.put_if_absent

    def overtaken(storage, name, data):
        if name == paths.snapshot_path(1):
            monkeypatch.undo()
            shutil.copytree(other / "snapshots", root / "snapshots", dirs_exist_ok=True)
        return real(storage, name, data)

    monkeypatch.setattr(PosixStorage, "put_if_absent", overtaken)
    snapshot = writer.close()
    assert (snapshot.number, snapshot.rows, snapshot.units) == (2, 8, 2)
    assert snapshot.previous == sl.open(root, snapshot=1).snapshot.digest
    assert (sl.open(root).rows, sl.open(root, snapshot=1).rows) == (8, 4)


def test_sealing_twice_returns_the_same_snapshot(tmp_path):
    first = sl.seal(unsealed(tmp_path / "s"))
    assert sl.seal(tmp_path / "s") == first
    assert paths.snapshot_numbers(PosixStorage(tmp_path / "s")) == [1]


def test_an_empty_store_is_not_sealed(tmp_path):
    with pytest.raises(StoreIncomplete, match="has no rows yet"):
        sl.seal(unsealed(tmp_path / "s", rows=0))


@pytest.mark.parametrize("removed", ["the directory", "its content"])
def test_a_store_that_is_removed_is_not_made_anew_without_its_descriptor(tmp_path, removed):
    root = tmp_path / "s"
    writer = sl.create(root, heads=HEADS, teacher="t", unit_rows=8)
    append(writer, 0)
    shutil.rmtree(root)
    if removed == "its content":
        root.mkdir()
    with pytest.raises(StorageFailed, match="the store was removed while it was being written"):
        writer.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
