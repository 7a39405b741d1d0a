"""Garbage of crashes is listed and collected, and unchanged units are not verified again."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreCorrupt
from softlabels.labels import Head
from softlabels.store import (
    DataRecord,
    Descriptor,
    Garbage,
    TeacherRecord,
    collect_garbage,
    create_or_open,
    repair,
    verify,
)
from softlabels.store.storage.posix import PosixStorage
from tests.corpus import forging

DAY = 86_400


def descriptor():
    return Descriptor(
        rows=40, unit_rows=10, chunk_rows=5, heads={"logits": Head(encoding="dense:f32", classes=3)},
        teacher=TeacherRecord(spec="t", digest="d"), data=DataRecord(spec="x", fingerprint="f", rows=40),
    )  # fmt: skip


def commit(store, unit):
    rng = np.random.default_rng(unit)
    with store.begin(unit) as writer:
        writer.append(
            {"key": rng.integers(0, 256, (10, 16), dtype=np.uint8), "view": np.zeros(10, np.uint32),
             "logits/values": rng.normal(size=(10, 3)).astype(np.float32)}
        )  # fmt: skip
        return writer.commit(extras={"logits/probe": np.zeros((1, 3), np.float32), "logits/probe_rows": np.array([2])})


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    created = create_or_open(tmp_path / "s", descriptor())
    for unit in range(4):
        assert commit(created, unit)
    sl.seal(tmp_path / "s")
    return created


def age(root, days):
    """Make every file look ``days`` older."""
    for path in root.rglob("*"):
        when = time.time() - days * DAY
        os.utime(path, (when, when))


def test_a_store_without_orphans_has_nothing_to_collect(store, tmp_path):
    age(tmp_path / "s", 30)
    assert collect_garbage(store.storage) == Garbage(files=(), young=())


def test_what_nothing_refers_to_is_listed_and_deleted_only_where_asked(store, tmp_path):
    root = tmp_path / "s"
    file = store.storage.create()
    file.write(b"half a shard")
    with store.begin(2) as late:  # loses the race: unit 2 is committed
        rng = np.random.default_rng(9)
        late.append({"key": rng.integers(0, 256, (10, 16), dtype=np.uint8), "view": np.zeros(10, np.uint32),
                     "logits/values": rng.normal(size=(10, 3)).astype(np.float32)})  # fmt: skip
        assert not late.commit(extras={"logits/probe": np.zeros((1, 3), np.float32)})
    (root / "snapshots" / "00000002-0123456789abcdef.parquet").write_bytes(b"a table")
    (root / "notes.txt").write_text("mine")
    shard = next((root / "shards").rglob("00000001-*"))
    shard.write_bytes(b"damaged")
    assert repair(root) == [1]
    assert commit(store, 1)
    sl.seal(root)
    garbage = collect_garbage(root)
    assert garbage.files == (), "all of it is younger than seven days"
    assert {Path(orphan.path).relative_to(root).parts[0] for orphan in garbage.young} == {
        "tmp", "shards", "extras", "snapshots", "quarantine"
    }  # fmt: skip
    age(root, 8)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    result = {Path(orphan.path).relative_to(root).parts[0]: orphan for orphan in collect_garbage(root).files}
    assert set(result) == {"tmp", "shards", "extras", "snapshots", "quarantine"}
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before, "only listed"
    assert "another attempt at unit 2" in result["shards"].reason
    deleted = collect_garbage(root, delete=True).files
    assert not any(Path(orphan.path).exists() for orphan in deleted)
    file.discard()
    assert (root / "notes.txt").read_text() == "mine"
    assert verify(root, deep=True).ok
    assert sl.open(root).rows == 40
    assert collect_garbage(root, older_than=0) == Garbage(files=(), young=())


class Vanishing(PosixStorage):
    """A directory whose temporary files are removed by their writer at a given moment."""

    def __init__(self, directory, moment):
        super().__init__(directory)
        self.moment = moment

    def _remove(self, name, moment):
        if self.moment == moment and name.startswith("tmp/gone"):
            (Path(str(self)) / name).unlink(missing_ok=True)

    def info(self, name):
        self._remove(name, "listed")
        return super().info(name)

    def delete(self, name):
        self._remove(name, "looked at")
        super().delete(name)


@pytest.mark.parametrize(("moment", "collected"), [("listed", 0), ("looked at", 1)])
def test_a_temporary_file_that_vanishes_meanwhile_is_no_error(store, tmp_path, moment, collected):
    """Its writer has finished between two steps of the collection."""
    (tmp_path / "s" / "tmp" / "gone").write_bytes(b"x")
    age(tmp_path / "s", 30)
    storage = Vanishing(tmp_path / "s", moment)
    assert len(collect_garbage(storage, delete=True).files) == collected
    assert not (tmp_path / "s" / "tmp" / "gone").exists()
    assert sl.verify(tmp_path / "s").ok


def test_what_is_nobodys_garbage_is_left(store, tmp_path):
    """Locks, files of other names, what is no file, and all that snapshots name, also those of before."""
    root = tmp_path / "s"
    store.lock().close()
    os.mkfifo(root / "tmp" / "pipe")
    (root / "shards" / "00" / "mine.zip").write_text("mine")
    shard = next((root / "shards").rglob("00000001-*"))
    shard.write_bytes(b"damaged")
    assert repair(root) == [1]
    assert commit(store, 1)
    sl.seal(root)
    age(root, 8)
    result = [Path(orphan.path).relative_to(root).parts[0] for orphan in collect_garbage(root, delete=True).files]
    assert set(result) == {"quarantine"}, "the unit that was set aside, with its extras"
    assert sl.open(root).probe().rows.tolist() == sl.open(root, snapshot=1).probe().rows.tolist() == [2, 12, 22, 32]
    assert (root / "tmp" / "appending.lock").exists()
    assert (root / "shards" / "00" / "mine.zip").read_text() == "mine"


def test_tail_priors_and_snapshots_without_a_probe_are_no_garbage(tmp_path):
    root = forging.make(tmp_path / "s", "topk-zarr")
    prior = sl.open(root).prior("logits")
    age(root, 8)
    assert collect_garbage(root, delete=True).files == ()
    np.testing.assert_array_equal(sl.open(root).prior("logits"), prior)


def test_ages_are_in_days(store, tmp_path):
    file = store.storage.create()
    file.write(b"half a shard")
    age(tmp_path / "s", 2)
    assert len(collect_garbage(store.storage, older_than=1.9).files) == 1
    assert len(collect_garbage(store.storage, older_than=2.1).young) == 1
    file.discard()


def test_garbage_is_not_guessed_at_where_a_record_is_damaged(store, tmp_path):
    age(tmp_path / "s", 30)
    record = next((tmp_path / "s" / "records").rglob("00000001.json"))
    record.write_bytes(record.read_bytes()[:-4])
    with pytest.raises(StoreCorrupt, match=r"00000001\.json"):
        collect_garbage(store.storage)
    with pytest.raises(InvalidArgument, match="age"):
        collect_garbage(store.storage, older_than=-1)


def test_verifying_again_reads_only_what_was_touched(store, tmp_path):
    root = tmp_path / "s"
    assert verify(root, incremental=True).skipped == 0
    again = verify(root, incremental=True)
    assert (again.ok, again.units, again.skipped) == (True, 4, 4)
    assert verify(root, incremental=True, deep=True).skipped == 0, "deeper than before"
    assert verify(root, incremental=True, deep=True).skipped == 4
    assert verify(root, incremental=True).skipped == 4, "deep is more than enough"
    shard = next((root / "shards").rglob("00000003-*"))
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    status = shard.stat()
    shard.write_bytes(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))  # the change time still tells
    report = verify(root, incremental=True)
    assert [problem.unit for problem in report.bad] == [3]
    assert report.skipped == 3
    assert [problem.unit for problem in verify(root, incremental=True).bad] == [3], "what is bad is never remembered"


def test_a_damaged_ledger_only_costs_time(store, tmp_path):
    verify(store.storage, incremental=True)
    (ledger,) = (tmp_path / "cache").rglob("*.json")
    ledger.write_bytes(b'{"0": "good", "1"')
    assert verify(store.storage, incremental=True).skipped == 0
    assert verify(store.storage, incremental=True).skipped == 4
