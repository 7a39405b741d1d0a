"""Repair sets aside damaged files alone, and the printed advice ends each damage."""

import os
import shutil

import pytest

import softlabels as sl
from softlabels.errors import StoreBusy, StoreCorrupt, StoreError
from softlabels.store import create_or_open, repair, verify
from softlabels.store.format import canonical_json, paths
from softlabels.store.storage.registry import open_storage
from tests.corpus import forging
from tests.corpus.cases import file_of
from tests.reliability import world

UNITS = 3


def make(root, shard_format="zarr", labels="topk"):
    """A complete sealed store with codebook, prior and extras."""
    store = world.open_store(root, UNITS, shard_format, labels)
    fill(root, shard_format, labels)
    return store


def fill(root, shard_format="zarr", labels="topk"):
    """Run what ``generate`` does: make the missing units, and seal."""
    store = world.open_store(root, UNITS, shard_format, labels)
    for unit in list(store.missing()):
        world.commit(store, unit, extras=True)
    sl.seal(root)


def find(root, what):
    """The file of a kind."""
    if what == "codebook":
        return next((root / "codebooks").iterdir())
    if what == "extras":
        return root / paths.extras_path(0, forging.record_of(root)["attempt"])
    return file_of(root, what)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def fifo(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "lost": lambda path: path.unlink(),
    "flipped": flip,
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "a FIFO": fifo,
}
FILES = ("descriptor", "codebook", "record", "shard", "extras", "snapshot", "table", "prior")


def follow(root, good, fix, damaged):
    """Do what the advice of a report says."""
    if fix == "repair":
        repair(root)
    elif fix == "generate":
        fill(root, labels="adaptive")
    elif fix == "seal":
        sl.seal(root)
    elif fix == "descriptor":
        (root / paths.DESCRIPTOR).unlink()
        fill(root, labels="adaptive")
    elif fix == "fetch":
        damaged.unlink(missing_ok=True)
        shutil.copy(good / damaged.relative_to(root), damaged)


def state(root):
    """The report of a store, or of one that cannot be opened the fix that its error advises."""
    try:
        return verify(root, deep=True).fix
    except StoreError as error:
        assert "generate command that made the store" in str(error)  # noqa: PT017  the store may be sound
        return "descriptor" if (root / paths.DESCRIPTOR).exists() else "generate"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("what", FILES)
def test_following_the_advice_ends_every_damage(tmp_path, what, damage):
    good, root = tmp_path / "good", tmp_path / "s"
    make(good, labels="adaptive")
    shutil.copytree(good, root)
    shards = {path.name: path.read_bytes() for path in (root / "shards").rglob("*.zip")}
    path = find(root, what)
    DAMAGES[damage](path)
    steps = []
    while (fix := state(root)) is not None:
        steps.append(fix)
        assert len(steps) < 4, f"the advice goes in a circle: {steps}"
        follow(root, good, fix, path)
    assert steps, "the damage was found"
    world.judge(root, create_or_open(root, world.descriptor(UNITS, labels="adaptive")).descriptor)
    assert sl.open(root).rows == UNITS * world.UNIT_ROWS
    if what not in {"record", "shard", "extras"}:
        there = {path.name: path.read_bytes() for path in (root / "shards").rglob("*.zip")}
        assert there == shards, "no unit was made again"


@pytest.mark.parametrize("what", ["table", "prior", "snapshot"])
def test_several_files_of_a_snapshot_are_made_again(tmp_path, what):
    root = tmp_path / "s"
    make(root)
    digest = sl.open(root).snapshot.digest
    find(root, "prior").unlink()
    flip(find(root, what)) if what != "prior" else find(root, "table").unlink()
    repair(root)
    sl.seal(root)
    report = verify(root, deep=True)
    assert report.ok, report.bad
    assert sl.open(root).snapshot.digest == digest, "the same snapshot, byte for byte"


def test_repair_moves_nothing_if_the_descriptor_is_not_the_sealed_one(tmp_path):
    """One changed digit made every unit look foreign."""
    root = tmp_path / "s"
    make(root)
    path = root / paths.DESCRIPTOR
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":1'))
    (problem,) = verify(root).bad
    assert (problem.unit, problem.fix) == (None, "descriptor")
    before = sorted(root.rglob("*"))
    with pytest.raises(StoreCorrupt, match=r"softlabels\.json: it is not the descriptor .* nothing was moved"):
        repair(root)
    assert sorted(root.rglob("*")) == before


def test_a_snapshot_of_another_store_is_set_aside_and_no_unit(tmp_path):
    root, other = tmp_path / "s", tmp_path / "other"
    make(root)
    make(other, "parquet")
    shutil.copy(other / paths.snapshot_path(1), root / paths.snapshot_path(1))
    (problem,) = verify(root).bad
    assert (problem.problem, problem.fix) == ("it is of another store", "repair")
    assert repair(root) == []
    assert len(list(create_or_open(root, world.descriptor(UNITS)).committed_units())) == UNITS
    sl.seal(root)
    assert verify(root).ok


def test_an_old_report_moves_no_unit_that_was_made_again(tmp_path):
    root = tmp_path / "s"
    make(root)
    for unit in (0, 2):
        flip(forging.shard_of(root, unit))
    report = verify(root)
    assert repair(root, report) == [0, 2]
    world.commit(world.open_store(root, UNITS), 0)
    assert repair(root, report) == [], "unit 0 is right, and unit 2 is missing"
    assert verify(root).fix == "generate"
    fill(root)
    assert repair(root, report) == []
    assert verify(root, deep=True).ok


def test_a_unit_made_again_since_sealing_is_not_set_aside(tmp_path):
    root = tmp_path / "s"
    make(root)
    flip(forging.shard_of(root))
    assert repair(root) == [0]
    world.commit(world.open_store(root, UNITS), 0, extras=True)
    report = verify(root)
    assert [(problem.unit, problem.fix) for problem in report.bad] == [(0, "seal")]
    assert report.fix == "seal"
    assert repair(root, report) == []
    sl.seal(root)
    assert verify(root).ok


def test_a_second_damaged_record_does_not_replace_the_first_in_quarantine(tmp_path):
    root = tmp_path / "s"
    make(root)
    contents = []
    for _ in range(2):
        flip(find(root, "record"))
        contents.append(find(root, "record").read_bytes())
        assert repair(root) == [0]
        fill(root)
    quarantined = sorted((root / "quarantine" / "records" / "00").iterdir())
    assert [path.read_bytes() for path in quarantined] == contents


def test_repair_leaves_the_shard_of_a_writer_that_is_about_to_commit(tmp_path):
    root = tmp_path / "s"
    make(root)
    flip(forging.shard_of(root))
    waiting = root / paths.shard_path(0, "f" * 32, "zarr")
    waiting.write_bytes(b"published, and not linked yet")
    assert repair(root) == [0]
    assert waiting.exists()


def test_one_repair_at_a_time(tmp_path):
    root = tmp_path / "s"
    make(root)
    flip(forging.shard_of(root))
    lock = open_storage(root).lock("repair")
    with pytest.raises(StoreBusy):
        repair(root)
    lock.close()
    assert repair(root) == [0]


def test_a_descriptor_that_is_lost_comes_back_with_the_same_settings_alone(tmp_path):
    root = tmp_path / "s"
    make(root)
    (root / paths.DESCRIPTOR).unlink()
    with pytest.raises(StoreError, match="made with other settings"):
        world.open_store(root, UNITS, "parquet")
    fill(root)
    assert verify(root, deep=True).ok


def test_a_descriptor_that_is_another_document_is_no_unit_problem(tmp_path):
    root = forging.make(tmp_path / "s", "topk-zarr")
    document = forging.descriptor("topk-zarr").to_json() | {"seed": 1}
    (root / paths.DESCRIPTOR).write_bytes(canonical_json.to_bytes(document))
    assert [(problem.unit, problem.fix) for problem in verify(root).bad] == [(None, "descriptor")]
