"""Verifying names every damaged file and goes on behind it; repairing sets its unit aside and touches no other."""

import os
import shutil

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import StoreCorrupt
from softlabels.store import create_or_open, open_storage, repair, verify
from softlabels.store.format import paths
from tests.corpus import forging

KIND = "topk-zarr"


@pytest.fixture
def root(tmp_path):
    return forging.make(tmp_path / "s", KIND)


def extras_of(root, unit):
    return root / paths.extras_path(unit, forging.record_of(root, unit)["attempt"])


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "record cut short": (lambda root: root / paths.record_path(0), lambda path: os.truncate(path, 9), "is damaged"),
    "record gone": (lambda root: root / paths.record_path(0), lambda path: path.unlink(), "the record is missing"),
    "shard gone": (forging.shard_of, lambda path: path.unlink(), "the shard is missing"),
    "shard cut short": (forging.shard_of, lambda path: os.truncate(path, 99), "has 99 bytes where"),
    "shard flipped": (forging.shard_of, flip, "not what was committed"),
    "shard a FIFO": (forging.shard_of, fifo, "cannot be read: a directory, FIFO or device"),
    "extras gone": (lambda root: extras_of(root, 0), lambda path: path.unlink(), "is missing"),
    "extras flipped": (lambda root: extras_of(root, 0), flip, "not what was committed"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_unit_is_named_set_aside_and_made_again(root, kind):
    find, spoil, says = DAMAGE[kind]
    path = find(root)
    spoil(path)
    seen = []
    report = verify(root, progress=lambda done, total: seen.append((done, total)))
    assert not report.ok
    assert [problem.unit for problem in report.bad] == [0]
    named = str(report.bad[0].path) + report.bad[0].problem
    assert report.bad[0].path not in report.bad[0].problem
    assert "run softlabels" not in report.bad[0].problem, "the advice stands in the report"
    assert path.name in named
    assert says in named
    assert seen[-1][0] == seen[-1][1] > 0, "it goes on to the last"
    fix = "generate" if kind == "record gone" else "repair"
    named = {"unit": 0, "path": report.bad[0].path, "problem": report.bad[0].problem, "fix": fix}
    assert report.to_json()["bad"] == [named]
    other = forging.shard_of(root, 1).read_bytes()
    assert repair(root, report) == ([] if kind == "record gone" else [0])
    assert not (root / paths.record_path(0)).exists()
    store = create_or_open(root, forging.descriptor(KIND))
    assert list(store.missing()) == [0]
    with store.begin(0) as writer:
        writer.append(forging.columns(KIND, range(6)))
        assert writer.commit(extras={"logits/prior": forging.SUMS})
    sl.seal(root)
    assert verify(root, deep=True).ok
    assert len(forging.read_all(root)[0]) == forging.ROWS
    assert forging.shard_of(root, 1).read_bytes() == other, "the other unit is as it was"


def test_values_no_encoder_writes_are_found_only_by_a_deep_look(tmp_path):
    root = forging.make(tmp_path / "s", KIND, spoil=lambda result: result["logits/ids"].fill(7))
    assert verify(root).ok
    (problem,) = verify(root, deep=True).bad
    assert (problem.unit, problem.path) == (0, str(forging.shard_of(root)))
    assert "twice" in problem.problem


def test_a_unit_made_again_since_sealing_is_not_what_was_sealed(root):
    other = forging.make(root.parent / "other", KIND, spoil=lambda result: result["logits/tail"].fill(-1))
    shutil.copy(forging.shard_of(other), forging.shard_of(root).parent)
    shutil.copy(extras_of(other, 0), extras_of(root, 0).parent)
    shutil.copy(other / paths.record_path(0), root / paths.record_path(0))
    (problem,) = verify(root).bad
    assert (problem.unit, problem.problem) == (0, "it is not the record that was sealed")
    sl.seal(root)
    assert verify(root, deep=True).ok, "sealed again, it is"


def test_an_incomplete_store_is_not_called_complete(root):
    """Without snapshots and with units missing nothing is damaged, and the store is of no use yet."""
    for path in (root / "snapshots").iterdir():
        path.unlink()
    (root / paths.record_path(1)).unlink()
    report = verify(root, deep=True)
    assert (report.bad, report.ok, report.complete, report.sealed, report.missing_units) == ((), False, False, False, 1)
    assert (report.verdict, report.fix) == ("1 unit missing, not sealed", "generate")
    assert report.to_json()["advice"].startswith("Run the generate command")


def test_a_complete_store_that_is_not_sealed_is_sent_to_seal(root):
    for path in (root / "snapshots").iterdir():
        path.unlink()
    report = verify(root)
    assert (report.ok, report.complete, report.sealed, report.verdict) == (False, True, False, "not sealed")
    assert report.advice == f"Run softlabels seal {root}."


def test_units_appended_since_the_last_snapshot_are_not_sealed(tmp_path):
    root = tmp_path / "s"
    store = create_or_open(root, forging.descriptor(KIND, rows=None))
    for unit in range(2):
        with store.begin(unit) as writer:
            writer.append(forging.columns(KIND, range(6 * unit, 6 * unit + 6)))
            writer.commit()
        report = verify(root)
        assert (report.units, report.missing_units, report.sealed) == (unit + 1, 0, False)
        sl.seal(root)
        assert verify(root).ok


def test_damaged_extras_are_not_taken_for_verified(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert verify(root, incremental=True).ok
    flip(extras_of(root, 0))
    report = verify(root, incremental=True)
    assert [problem.unit for problem in report.bad] == [0]
    assert report.skipped == 1
    extras_of(root, 1).unlink()
    assert [problem.unit for problem in verify(root, incremental=True).bad] == [0, 1]


def test_very_many_missing_records_are_one_problem(root):
    """A snapshot may claim a million units that are not there."""
    for unit in range(2):
        (root / paths.record_path(unit)).unlink()
    (problem,) = verify(root).bad
    assert (problem.unit, problem.problem) == (0, "the records of units 0 to 1 are missing")


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: os.truncate(path, 99)])
def test_sealing_refuses_a_shard_that_is_gone_or_cut_short(root, spoil):
    (root / paths.snapshot_path(1)).unlink()
    path = forging.shard_of(root)
    spoil(path)
    with pytest.raises(StoreCorrupt, match=rf"{path.name} (is missing|has 99 bytes where .*); run softlabels repair"):
        sl.seal(root)
    assert paths.snapshot_numbers(open_storage(root)) == []


def test_a_shard_that_is_gone_is_not_taken_for_verified(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert verify(root, incremental=True).ok
    forging.shard_of(root).unlink()
    report = verify(root, incremental=True)
    assert [problem.problem for problem in report.bad] == ["the shard is missing"]
    assert report.skipped == 1


def test_labels_kept_whole_need_no_prior_and_may_leave_no_probe(tmp_path):
    """Without a tail there is no prior, and without rows kept dense nothing to measure labels by."""
    root = forging.make(tmp_path / "s", "dense-zarr")
    store = sl.open(root)
    assert store.probe() is None
    assert store.prior("logits") is None
    assert store.snapshot.fidelity == {}


def test_a_head_without_dense_rows_has_no_probe(tmp_path):
    """Of two heads one left rows dense."""
    root = tmp_path / "s"
    heads = {"logits": forging.head_of("dense-zarr"), "other": forging.head_of("dense-zarr")}
    store = create_or_open(root, forging.descriptor("dense-zarr", heads=heads))
    for unit in range(2):
        result = forging.columns("dense-zarr", store.descriptor.unit_range(unit))
        dense = result["logits/values"][2:4].astype(np.float32)
        with store.begin(unit) as writer:
            writer.append(result | {"other/values": result["logits/values"]})
            writer.commit(extras={"logits/probe": dense, "logits/probe_rows": np.array([2, 3])})
    sl.seal(root)
    assert sl.open(root).probe("logits").rows.tolist() == [2, 3, 8, 9]
    assert sl.open(root).probe("other") is None


def test_a_record_on_another_shelf_commits_nothing(root):
    """Units of the second shelf begin at 4,096; nobody would look there for unit 1, so it is no unit twice."""
    (root / "records" / "01").mkdir()
    shutil.copy(root / paths.record_path(1), root / "records" / "01")
    assert list(paths.committed_units(open_storage(root))) == [0, 1]
    assert verify(root, deep=True).ok


def test_a_record_of_a_unit_that_the_store_does_not_have_is_damage_and_repaired(root):
    shutil.copy(root / paths.record_path(1), root / paths.record_path(2))
    report = verify(root)
    assert ([problem.unit for problem in report.bad], report.missing_units, report.fix) == ([2], 0, "repair")
    assert repair(root) == [2]
    assert verify(root).ok
