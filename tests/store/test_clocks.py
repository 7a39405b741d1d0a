"""Machines whose clocks are a day off share stores: nothing asks for the time, and what files say decides nothing."""

import ast
import os
import time
from pathlib import Path

import pytest

import softlabels as sl
from softlabels.store import collect_garbage, create_or_open, verify
from softlabels.store.format import paths
from tests.corpus import forging

KIND = "topk-zarr"
DAY = 86_400
OFF = pytest.mark.parametrize("days", [-400, -1, 1, 400])


def shift(root, days):
    """Files as a machine whose clock is off leaves them."""
    for path in root.rglob("*"):
        when = time.time() + days * DAY
        os.utime(path, (when, when))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """One unit of two."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = create_or_open(tmp_path / "s", forging.descriptor(KIND))
    write(store, 0)
    return store


def root(store):
    return Path(str(store.storage))


def write(store, unit):
    with store.begin(unit) as writer:
        writer.append(forging.columns(KIND, store.descriptor.unit_range(unit)))
        assert writer.commit(extras={"logits/prior": forging.SUMS})


@OFF
def test_another_machine_goes_on_with_a_store_whatever_its_clock_says(store, days):
    with store.claims() as claims:
        assert claims.take(0)
    shift(root(store), days)
    records = (root(store) / paths.record_path(0)).read_bytes()
    again = create_or_open(store.storage, forging.descriptor(KIND))
    assert list(again.missing()) == [1]
    with again.claims() as claims:
        assert claims.take(1), "what was claimed on another day is claimed by nobody who has ended"
        write(again, 1)
    first = sl.seal(store.storage)
    shift(root(store), -days)
    assert sl.seal(store.storage) == first
    assert (root(store) / paths.record_path(0)).read_bytes() == records
    assert verify(store.storage, deep=True).ok
    assert len(forging.read_all(store.storage)[0]) == forging.ROWS


def test_two_machines_a_year_apart_write_the_same_bytes(store, tmp_path):
    """Neither shards nor snapshots hold a time."""
    write(store, 1)
    first = sl.seal(store.storage)
    shift(root(store), -400)
    other = create_or_open(tmp_path / "other", forging.descriptor(KIND))
    for unit in range(2):
        write(other, unit)
    sl.seal(tmp_path / "other")
    assert forging.shard_of(root(store)).read_bytes() == forging.shard_of(tmp_path / "other").read_bytes()
    assert first.prior == sl.open(tmp_path / "other").snapshot.prior


@pytest.mark.parametrize("days", [-1, 0, 1, 400])
def test_a_commit_under_way_on_a_machine_a_day_off_is_no_garbage(store, days):
    """Seven days by the store's own file system leave six where a clock is a day behind."""
    temporary = store.storage.create()
    shift(root(store), days)
    assert collect_garbage(store.storage, delete=True).files == ()
    temporary.publish(paths.shard_path(1, "0" * 32, "zarr"))


@OFF
def test_a_file_whose_time_has_moved_is_verified_anew(store, days):
    """Times are compared for being the same, never for being later."""
    assert not verify(store.storage, incremental=True).bad
    assert verify(store.storage, incremental=True).skipped == 1
    shard = forging.shard_of(root(store))
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    shift(root(store), days)
    report = verify(store.storage, incremental=True)
    assert (report.skipped, [problem.unit for problem in report.bad]) == (0, [0])


WALL = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}


def test_nothing_in_the_library_asks_for_the_time_of_day():
    """Durations are measured by clocks that nobody sets."""
    for path in Path(sl.__file__).parent.rglob("*.py"):
        called = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not called & WALL, path
