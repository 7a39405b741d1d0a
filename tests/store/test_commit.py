"""The commit protocol: one record a unit whoever races, and nothing half-written is ever visible."""

import errno
import gc
import json
import multiprocessing
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreConflict, StoreCorrupt, StoreError
from softlabels.fidelity import Fidelity
from softlabels.labels import Head
from softlabels.store import DataRecord, Descriptor, TeacherRecord, create_or_open, open_storage
from softlabels.store.format import paths
from softlabels.store.format.record import read_record
from softlabels.store.shards import hashed_file, zarr_shard
from softlabels.store.storage.posix import PosixFile, PosixStorage
from softlabels.store.unit_reader import UnitReader
from tests.warm import CONTEXT

ROWS, UNIT = 120, 10


def descriptor():
    return Descriptor(
        rows=ROWS, unit_rows=UNIT, chunk_rows=4, heads={"logits": Head(encoding="dense:f32", classes=3)},
        teacher=TeacherRecord(spec="t", digest="d"), data=DataRecord(spec="x", fingerprint="f", rows=ROWS),
    )  # fmt: skip


def columns(unit):
    """The only right content of a unit."""
    rows = np.arange(unit * UNIT, (unit + 1) * UNIT)
    return {
        "key": np.repeat(rows.astype(np.uint8)[:, None], 16, axis=1),
        "view": np.zeros(UNIT, np.uint32),
        "logits/values": np.stack([rows, rows * 2, -rows], axis=1).astype(np.float32),
    }


def commit(store, unit):
    with store.begin(unit) as writer:
        writer.append(columns(unit))
        return writer.commit()


def assert_whole(root, units):
    """Exactly these units are committed, each with its only right content."""
    assert list(paths.committed_units(open_storage(root))) == sorted(units)
    for unit in units:
        reader = UnitReader(open_storage(root), descriptor(), read_record(open_storage(root), unit, descriptor()))
        parts = [reader.read_chunk(chunk) for chunk in range(3)]
        for name, expected in columns(unit).items():
            np.testing.assert_array_equal(np.concatenate([arrays[name] for arrays in parts]), expected)


def test_a_committed_unit_reads_back_whatever_batches_it_came_in(tmp_path):
    store = create_or_open(tmp_path / "s", descriptor())
    for unit, size in enumerate((1, 3, 4, 7, 10)):
        with store.begin(unit) as writer:
            for start in range(0, UNIT, size):
                writer.append({name: array[start : start + size] for name, array in columns(unit).items()})
            assert writer.commit()
    assert_whole(tmp_path / "s", range(5))
    assert list(store.missing()) == list(range(5, 12))


def test_leaving_without_a_commit_leaves_nothing(tmp_path):
    def die(store):
        with store.begin(0) as writer:
            writer.append(columns(0))
            raise RuntimeError("the teacher died")

    with pytest.raises(RuntimeError, match="teacher"):
        die(create_or_open(tmp_path / "s", descriptor()))
    assert list(paths.committed_units(open_storage(tmp_path / "s"))) == []
    assert [path for path in (tmp_path / "s").rglob("*") if path.is_file()] == [tmp_path / "s" / "softlabels.json"]


def test_too_few_or_too_many_rows_are_not_committed(tmp_path):
    store = create_or_open(tmp_path / "s", descriptor())
    with store.begin(0) as writer:
        writer.append({name: array[:9] for name, array in columns(0).items()})
        with pytest.raises(StoreError, match="unit 0 has 10 rows, but 9 were given; nothing was committed"):
            writer.commit()
    with store.begin(0) as writer, pytest.raises(InvalidArgument, match="unit 0 has 10 rows, not more"):
        writer.append({name: np.concatenate([array, array[:1]]) for name, array in columns(0).items()})
    assert_whole(tmp_path / "s", [])


@pytest.mark.parametrize("damage", ["missing", "dtype", "shape"])
def test_columns_that_are_not_the_stores_are_refused(tmp_path, damage):
    arrays = columns(0)
    if damage == "missing":
        del arrays["view"]
    elif damage == "dtype":
        arrays["view"] = arrays["view"].astype(np.int64)
    else:
        arrays["logits/values"] = arrays["logits/values"][:, :2]
    with (
        create_or_open(tmp_path / "s", descriptor()).begin(0) as writer,
        pytest.raises(InvalidArgument, match="column"),
    ):
        writer.append(arrays)


def test_the_second_of_two_writers_loses_without_harm(tmp_path):
    store = create_or_open(tmp_path / "s", descriptor())
    with store.begin(3) as slow:
        slow.append(columns(3))
        assert commit(store, 3)
        winner = (tmp_path / "s" / paths.record_path(3)).read_bytes()
        assert not slow.commit()
    assert (tmp_path / "s" / paths.record_path(3)).read_bytes() == winner
    assert_whole(tmp_path / "s", [3])


@pytest.mark.parametrize("unit", [-1, 12])
def test_a_unit_that_the_store_does_not_have_is_refused(tmp_path, unit):
    with pytest.raises(InvalidArgument, match=f"there is no unit {unit}; the store has 12"):
        create_or_open(tmp_path / "s", descriptor()).begin(unit)


def test_a_file_in_the_stores_place_is_left_alone(tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(StoreConflict, match="s is a file or a dangling link; name a directory"):
        create_or_open(tmp_path / "s", descriptor())
    assert (tmp_path / "s").read_text() == "mine"


def test_a_store_may_lie_deep_in_folders_that_are_not_there_yet(tmp_path):
    assert commit(create_or_open(tmp_path / "a" / "b" / "s", descriptor()), 0)
    assert_whole(tmp_path / "a" / "b" / "s", [0])


@pytest.mark.parametrize("names", [{"spec": "x" * 2**20}, {"spec": "\udcff"}, {"spec": None}, {"digest": ["d"]}])
def test_a_descriptor_that_could_not_be_read_again_is_not_written(tmp_path, names):
    """Too long, a path that is no text, no text at all: said before there is a store."""
    with pytest.raises(InvalidArgument, match=r"could not be read again: .*; give teacher and data short names"):
        create_or_open(
            tmp_path / "s", replace(descriptor(), teacher=TeacherRecord(**{"spec": "t", "digest": "d"} | names))
        )
    assert not (tmp_path / "s").exists()


def test_a_record_that_readers_would_refuse_is_not_committed(tmp_path):
    """A digest of any length fits a descriptor, but not every record."""
    named = replace(descriptor(), teacher=TeacherRecord(spec="t", digest="d" * 2**16))
    with pytest.raises(StoreError, match=r"refuse the record of unit 0: .* expected at most 65,536; nothing was comm"):
        commit(create_or_open(tmp_path / "s", named), 0)
    assert list(paths.committed_units(open_storage(tmp_path / "s"))) == []


def test_a_fidelity_that_is_no_number_is_not_committed(tmp_path):
    nothing = Fidelity(rows=1, kl={}, mass=float("nan"), top1=1, entropy=0, error=0)
    with create_or_open(tmp_path / "s", descriptor()).begin(0) as writer:
        writer.append(columns(0))
        with pytest.raises(StoreError, match=r"refuse the record of unit 0: .*; nothing was committed"):
            writer.commit(fidelity={"logits": nothing})
    assert list(paths.committed_units(open_storage(tmp_path / "s"))) == []


def test_extras_that_readers_would_refuse_are_not_written(tmp_path):
    store = create_or_open(tmp_path / "s", descriptor())
    with store.begin(0) as writer:
        writer.append(columns(0))
        with pytest.raises(
            InvalidArgument, match=r"file of arrays: got 134,\d+,\d+ bytes; expected at most 134,217,728"
        ):
            writer.commit(extras={"logits/probe": np.zeros(2**25, np.float32)})
    assert list(paths.committed_units(open_storage(tmp_path / "s"))) == []
    assert commit(store, 0)


def test_a_shard_that_would_be_too_large_is_not_committed(tmp_path, monkeypatch):
    store = create_or_open(tmp_path / "s", descriptor())
    with monkeypatch.context() as patch:
        patch.setattr(hashed_file, "MAX_SHARD_BYTES", 300)  # 4 GiB would take a while
        with pytest.raises(InvalidArgument, match="a shard is at most 4 GiB; choose fewer rows a unit with unit_rows="):
            commit(store, 0)
    assert not list((tmp_path / "s" / "tmp").iterdir())
    assert commit(store, 0)


def test_rows_whose_entries_are_too_many_for_a_chunk_are_refused(tmp_path):
    """Of ragged rows nobody knows beforehand how large they are."""
    head = Head(encoding="topk:3:f16", classes=3, kind="tokens", shape=(None,))
    ragged = replace(descriptor(), heads={"logits": head}, rows=1, unit_rows=1, chunk_rows=1)
    count = 2**23
    with (
        create_or_open(tmp_path / "s", ragged).begin(0) as writer,
        pytest.raises(InvalidArgument, match=r"chunk: got 1 rows of .* expected at most 67,108,864.* fewer rows"),
    ):
        writer.append({
            "key": np.zeros((1, 16), np.uint8), "view": np.zeros(1, np.uint32),
            "logits/length": np.full(1, count, np.uint32), "logits/ids": np.zeros((count, 3), np.uint8),
            "logits/values": np.zeros((count, 3), np.float16), "logits/tail": np.zeros((count, 1), np.float32),
        })  # fmt: skip
    assert not list((tmp_path / "s" / "tmp").iterdir())


def test_an_array_that_a_library_garbles_is_not_committed(tmp_path, monkeypatch):
    """Each chunk is decoded and compared before it is written."""
    store = create_or_open(tmp_path / "s", descriptor())
    real = zarr_shard.blosc.compress

    def garbled(array, *rest, **options):
        array = array.copy()
        array.reshape(-1).view(np.uint8)[-1] ^= 1
        return real(array, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(zarr_shard.blosc, "compress", garbled)
        with pytest.raises(StoreError, match=r"column 'key' does not survive compression.*nothing was committed"):
            commit(store, 0)
    assert_whole(tmp_path / "s", [])
    assert commit(store, 0)
    assert_whole(tmp_path / "s", [0])


@pytest.mark.parametrize("by", ["library", "disk"])
def test_a_parquet_shard_that_does_not_read_back_is_not_committed(tmp_path, monkeypatch, by):
    """The whole shard is read from the file again before it gets its name."""
    wide = {"logits": Head(encoding="dense:f32", classes=5000)}
    store = create_or_open(tmp_path / "s", replace(descriptor(), shard_format="parquet", heads=wide))
    noise = np.random.default_rng(0).standard_normal((UNIT, 5000)).astype(np.float32)
    real = pq.ParquetWriter.write_table

    def garbled(self, table, **options):
        views = pa.array(table["view"].to_numpy() + np.uint32(1))
        real(self, table.set_column(1, table.schema.field("view"), views), **options)

    with monkeypatch.context() as patch, store.begin(0) as writer:
        if by == "library":
            patch.setattr(pq.ParquetWriter, "write_table", garbled)
        writer.append(columns(0) | {"logits/values": noise})
        if by == "disk":
            (file,) = (tmp_path / "s" / "tmp").iterdir()
            with file.open("r+b") as damaged:
                damaged.seek(50_000)
                damaged.write(b"garbage")
        with pytest.raises(StoreError, match=r"a new shard does not read back: column .*; nothing was committed"):
            writer.commit()
    assert list(paths.committed_units(open_storage(tmp_path / "s"))) == []
    assert not list((tmp_path / "s" / "tmp").iterdir())
    with store.begin(0) as writer:
        writer.append(columns(0) | {"logits/values": noise})
        assert writer.commit()


@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
def test_dropping_a_unit_is_silent(tmp_path, shard_format):
    """Pyarrow ends a file that is left half-written, and would say on stderr that there is none."""
    store = create_or_open(tmp_path / "s", replace(descriptor(), shard_format=shard_format))
    with store.begin(0) as writer:
        writer.append(columns(0))
    del writer
    gc.collect()  # pytest makes what is said here an error
    assert not list((tmp_path / "s" / "tmp").iterdir())


def test_a_store_that_another_writer_makes_at_this_moment_is_that_store(tmp_path, monkeypatch):
    """It was not there when we looked, and is when we look for what else is there."""
    real = PosixStorage.list_names

    def meanwhile(storage, directory):
        monkeypatch.undo()
        assert commit(create_or_open(tmp_path / "s", descriptor()), 0)
        return real(storage, directory)

    monkeypatch.setattr(PosixStorage, "list_names", meanwhile)
    store = create_or_open(tmp_path / "s", descriptor())
    assert list(store.missing()) == list(range(1, 12))
    assert_whole(tmp_path / "s", [0])


def race(root, barrier, wins):
    """Commit every unit as fast as possible; one of several processes doing the same."""
    store = create_or_open(root, descriptor())
    barrier.wait()
    wins.put([unit for unit in range(ROWS // UNIT) if commit(store, unit)])


def test_racing_processes_leave_one_record_a_unit(tmp_path):
    barrier, wins = CONTEXT.Barrier(3), CONTEXT.Queue()
    workers = [CONTEXT.Process(target=race, args=(tmp_path / "s", barrier, wins), daemon=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    won = sorted(unit for _ in workers for unit in wins.get(timeout=60))
    for worker in workers:
        worker.join()
    assert won == list(range(ROWS // UNIT)), "each unit acknowledged exactly once"
    assert_whole(tmp_path / "s", range(ROWS // UNIT))


def die_after(events):
    """Have this process killed when it has made so many calls, in Python or in C: at any point of a commit."""
    remaining = [events]

    def count(*_):
        remaining[0] -= 1
        if remaining[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    return remaining


def write_until_killed(root, acknowledged, events):
    """Commit units and say so on a pipe only after commit has returned; exit by 1 where none was left to do."""
    store = create_or_open(root, descriptor())
    die_after(events)
    for unit in list(store.missing()):
        if commit(store, unit):
            os.write(acknowledged, bytes([unit]))
    os._exit(1)


def test_kill_at_any_moment_loses_no_acknowledged_unit(tmp_path):
    """Forked writers are killed after some number of calls, until all is done; the pipe is the ledger."""
    rng = np.random.default_rng(0)
    context = multiprocessing.get_context("fork")
    store = create_or_open(tmp_path / "warm", descriptor())
    commit(store, 0)
    remaining = die_after(10**9)
    commit(store, 1)
    sys.setprofile(None)
    of_a_commit = 10**9 - remaining[0]
    root, ledger, kills = tmp_path / "s", set(), 0
    create_or_open(root, descriptor())
    while len(ledger) < ROWS // UNIT:
        read_end, write_end = os.pipe()
        events = int(rng.integers(1, 2 * of_a_commit))
        worker = context.Process(target=write_until_killed, args=(root, write_end, events))
        worker.start()
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            ledger |= set(pipe.read())
        worker.join()
        kills += worker.exitcode == -signal.SIGKILL
        committed = set(paths.committed_units(open_storage(root)))
        assert ledger <= committed
        assert_whole(root, committed)
        ledger |= committed
    assert kills >= 6, "a writer commits two units at most before it is killed"
    assert_whole(root, range(ROWS // UNIT))


CALLS = {
    (PosixStorage, "create"), (PosixStorage, "put_if_absent"), (PosixStorage, "settle"),
    (PosixFile, "write"), (PosixFile, "sync"), (PosixFile, "publish"), (os, "link"), (os, "mkdir"), (os, "fsync"),
}  # fmt: skip


@pytest.mark.parametrize(("owner", "call"), sorted(CALLS, key=lambda call: call[1]))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_commits_nothing_and_a_retry_succeeds(tmp_path, monkeypatch, owner, call, code):
    """Each verb, and each call that is made durable by, fails the first, second, ... time it is made in a commit."""
    reached = 0
    for failing in range(1, 30):
        root = tmp_path / f"{failing}"
        store = create_or_open(root, descriptor())
        real, count = getattr(owner, call), [0]

        def broken(*arguments, real=real, count=count, failing=failing):
            count[0] += 1
            if count[0] == failing:
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        monkeypatch.setattr(owner, call, broken)
        failed = False
        try:
            commit(store, 0)
        except OSError:
            failed = True
        monkeypatch.undo()
        if not failed:
            break
        reached += 1
        # Linked but not synced: the record may be there, and then it is whole.
        assert_whole(root, list(paths.committed_units(open_storage(root))))
        commit(store, 0)
        assert_whole(root, [0])
    assert reached > 0


def test_everything_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    """The order of the protocol: data, its name, the directory; then the record, its name, the directory."""
    log = []
    for name in ("fsync", "link", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: log.append(name) or real(*a))
    store = create_or_open(tmp_path / "s", descriptor())
    commit(store, 0)
    log.clear()
    commit(store, 1)
    assert log == ["fsync", "rename", "fsync", "fsync", "link", "fsync"]


def test_records_are_canonical_small_and_name_themselves(tmp_path):
    store = create_or_open(tmp_path / "s", descriptor())
    commit(store, 0)
    data = (tmp_path / "s" / paths.record_path(0)).read_bytes()
    value = json.loads(data)
    assert data == json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    assert len(data) < 64 * 2**10
    assert sum(chunk["rows"] for chunk in value["chunks"]) == UNIT


def test_a_store_sealed_after_repair_is_a_new_snapshot(tmp_path):
    root = tmp_path / "s"
    store = create_or_open(root, descriptor())
    for unit in range(12):
        commit(store, unit)
    first = sl.seal(root)
    shard = next((root / "shards").rglob("00000005-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    from softlabels.store import repair

    assert repair(root) == [5]
    assert list(store.missing()) == [5]
    with pytest.raises(StoreCorrupt, match="is missing"):
        sl.open(root).read(range(50, 60))
    commit(store, 5)
    second = sl.seal(root)
    assert (second.number, second.previous) == (2, first.digest)
    assert_whole(root, range(12))
    assert sl.verify(root, deep=True).ok
