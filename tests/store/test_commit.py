"""The commit protocol: one record a unit whoever races, and nothing half-written is ever visible."""

import errno
import json
import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreCorrupt, StoreError
from softlabels.labels import Head
from softlabels.store import Descriptor, create_or_open, files, layout
from softlabels.store.units import UnitReader, read_record

ROWS, UNIT = 120, 10


def descriptor():
    return Descriptor(
        rows=ROWS, unit_rows=UNIT, chunk_rows=4, heads={"logits": Head(encoding="dense:f32", classes=3)},
        teacher={"spec": "t", "digest": "d"}, data={"spec": "x", "fingerprint": "f", "rows": ROWS},
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
    assert list(layout.committed_units(root)) == sorted(units)
    for unit in units:
        reader = UnitReader(root, descriptor(), read_record(root, unit, descriptor()))
        parts = [reader.read_chunk(chunk) for chunk in range(3)]
        for name, expected in columns(unit).items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected)


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
    assert list(layout.committed_units(tmp_path / "s")) == []
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
    given = columns(0)
    if damage == "missing":
        del given["view"]
    elif damage == "dtype":
        given["view"] = given["view"].astype(np.int64)
    else:
        given["logits/values"] = given["logits/values"][:, :2]
    with (
        create_or_open(tmp_path / "s", descriptor()).begin(0) as writer,
        pytest.raises(InvalidArgument, match="column"),
    ):
        writer.append(given)


def test_the_second_of_two_writers_loses_without_harm(tmp_path):
    store = create_or_open(tmp_path / "s", descriptor())
    with store.begin(3) as slow:
        slow.append(columns(3))
        assert commit(store, 3)
        winner = layout.record_path(tmp_path / "s", 3).read_bytes()
        assert not slow.commit()
    assert layout.record_path(tmp_path / "s", 3).read_bytes() == winner
    assert_whole(tmp_path / "s", [3])


def race(root, barrier, wins):
    """Commit every unit as fast as possible; one of several processes doing the same."""
    store = create_or_open(root, descriptor())
    barrier.wait()
    wins.put([unit for unit in range(ROWS // UNIT) if commit(store, unit)])


def test_racing_processes_leave_one_record_a_unit(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(3), context.Queue()
    workers = [context.Process(target=race, args=(tmp_path / "s", barrier, wins)) for _ in range(3)]
    for worker in workers:
        worker.start()
    won = sorted(unit for _ in workers for unit in wins.get(timeout=60))
    for worker in workers:
        worker.join()
    assert won == list(range(ROWS // UNIT)), "each unit acknowledged exactly once"
    assert_whole(tmp_path / "s", range(ROWS // UNIT))


def die_after(events):
    """Have this process killed when it has made so many calls, in Python or in C: at any point of a commit."""
    left = [events]

    def count(*_):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    return left


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
    left = die_after(10**9)
    commit(store, 1)
    sys.setprofile(None)
    of_a_commit = 10**9 - left[0]
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
        committed = set(layout.committed_units(root))
        assert ledger <= committed
        assert_whole(root, committed)
        ledger |= committed
    assert kills >= 6, "a writer commits two units at most before it is killed"
    assert_whole(root, range(ROWS // UNIT))


CALLS = ["create_temporary", "sync_and_close", "publish", "put_if_absent", "_link", "make_directory", "sync_directory"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_commits_nothing_and_a_retry_succeeds(tmp_path, monkeypatch, call, code):
    """Each verb of the I/O module fails the first, second, ... time it is called in a commit."""
    reached = 0
    for failing in range(1, 12):
        root = tmp_path / f"{failing}"
        store = create_or_open(root, descriptor())
        real, count = getattr(files, call), [0]

        def broken(*arguments, real=real, count=count, failing=failing):
            count[0] += 1
            if count[0] == failing:
                if call == "sync_and_close":
                    arguments[0].close()
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        monkeypatch.setattr(files, call, broken)
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
        assert_whole(root, list(layout.committed_units(root)))
        commit(store, 0)
        assert_whole(root, [0])
    assert reached > 0


def test_everything_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    """The order of the protocol: data, its name, the directory; then the record, its name, the directory."""
    log = []
    for module, name in ((os, "fsync"), (os, "link")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name: log.append(name) or real(*a))
    real_rename = type(tmp_path).rename
    monkeypatch.setattr(
        type(tmp_path), "rename", lambda self, target: log.append("rename") or real_rename(self, target)
    )
    store = create_or_open(tmp_path / "s", descriptor())
    commit(store, 0)
    log.clear()
    commit(store, 1)
    assert log == ["fsync", "rename", "fsync", "fsync", "link", "fsync"]


def test_records_are_canonical_small_and_name_themselves(tmp_path):
    store = create_or_open(tmp_path / "s", descriptor())
    commit(store, 0)
    data = layout.record_path(tmp_path / "s", 0).read_bytes()
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
    with pytest.raises(StoreCorrupt, match="no record"):
        sl.open(root).read(range(50, 60))
    commit(store, 5)
    second = sl.seal(root)
    assert (second.number, second.previous) == (2, first.digest)
    assert_whole(root, range(12))
    assert sl.verify(root, deep=True).ok
