"""Lock files: written by pull, checked by train-student, and never taken on trust."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

import softlabels as sl
from softlabels.errors import InvalidData, StorageFailed, StoreConflict
from softlabels.sharing import check_lock, read_lock, write_lock
from softlabels_cli.main import cli

HEADS = {"logits": sl.Head(classes=5, encoding="dense:f32")}


def grow(path, rows):
    """Append rows up to a number; every call seals one more snapshot."""
    logits = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    with sl.create(path, heads=HEADS, unit_rows=10) as writer:
        writer.append([f"row {i}" for i in range(rows)], {"logits": logits})
    return sl.open(path).snapshot.digest


@pytest.fixture
def source(tmp_path):
    grow(tmp_path / "source", 10)
    return tmp_path / "source"


def test_pull_pins_the_digest_the_number_and_the_source(source, tmp_path):
    lock = tmp_path / "softlabels.lock"
    sl.pull(source, tmp_path / "labels", lock=lock)
    snapshot = sl.open(source).snapshot
    assert json.loads(lock.read_text())["stores"] == {
        "labels": {"digest": snapshot.digest, "rows": 10, "snapshot": 1, "source": str(source)}
    }
    assert check_lock(sl.open(tmp_path / "labels"), lock).digest == snapshot.digest
    assert check_lock(sl.open(source), lock) is None, "a store that is not named is not pinned"


def test_a_pinned_copy_stays_at_its_snapshot_until_it_is_updated(source, tmp_path):
    lock = tmp_path / "softlabels.lock"
    first = sl.pull(source, tmp_path / "labels", lock=lock).digest
    second = grow(source, 20)
    assert sl.pull(source, tmp_path / "labels", lock=lock).digest == first
    with pytest.raises(StoreConflict, match=r"pins another snapshot.*update=True"):
        sl.pull(source, tmp_path / "labels", lock=lock, digest=second)
    assert sl.pull(source, tmp_path / "labels", lock=lock, update=True).digest == second
    assert read_lock(lock)["labels"].snapshot == 2


def test_a_source_that_was_rolled_back_is_refused(source, tmp_path):
    """With the pin its digest is gone; and an update does not go back."""
    lock = tmp_path / "softlabels.lock"
    grow(source, 20)
    sl.pull(source, tmp_path / "labels", lock=lock)
    for path in (source / "snapshots").glob("00000002*"):
        path.unlink()
    with pytest.raises(StoreConflict, match=r"softlabels\.lock: pins .* no snapshot has the digest.*update=True"):
        sl.pull(source, tmp_path / "labels", lock=lock)
    with pytest.raises(StoreConflict, match="older than the one that"):
        sl.pull(source, tmp_path / "labels", lock=lock, update=True)


def test_a_store_that_is_not_the_pinned_one_is_not_trained_from(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sl.pull(source, "labels", lock="softlabels.lock")
    grow("labels", 20)
    done = CliRunner().invoke(cli, ["train-student", "labels", "--student", "mlp", "--out", "run", "--data", "digits"])
    assert isinstance(done.exception, StoreConflict)
    assert "pins another snapshot" in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_a_lock_file_beside_a_recipe_counts(source, tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.toml").write_text('[train-student]\nstore = "labels"\nstudent = "mlp"\n')
    sl.pull(source, tmp_path / "labels", lock=tmp_path / "recipes" / "softlabels.lock")
    grow(tmp_path / "labels", 20)
    monkeypatch.chdir(tmp_path)
    for command, pinned in ((["--config", "recipes/a.toml"], True), (["labels", "--student", "mlp"], False)):
        done = CliRunner().invoke(cli, ["train-student", *command, "--out", "run", "--data", "digits"])
        assert ("pins another snapshot" in str(done.exception)) == pinned
        assert not (tmp_path / "run").exists()


def test_entries_of_other_stores_stay(source, tmp_path):
    lock = tmp_path / "softlabels.lock"
    write_lock(lock, sl.open(source), "s3://team/a")
    sl.pull(source, tmp_path / "sub" / "labels", lock=lock)
    assert {name: entry.source for name, entry in read_lock(lock).items()} == {
        "source": "s3://team/a",
        "sub/labels": str(source),
    }


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "{", "\xff", '{"format": "softlabels-lock", "version": 2, "stores": {}}',
        '{"format": "softlabels-lock", "version": 1, "stores": {"labels": {"digest": "../x"}}}',
        '{"format": "softlabels-lock", "version": 1, "stores": {"a": {}, "a": {}}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_lock_file_is_an_error_and_pins_nothing_silently(source, tmp_path, text):
    lock = tmp_path / "softlabels.lock"
    lock.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidData, match="not a lock file"):
        check_lock(sl.open(source), lock)
    with pytest.raises(InvalidData):
        sl.pull(source, tmp_path / "labels", lock=lock)


def test_a_lock_file_that_cannot_be_read_or_written_is_an_error(source, tmp_path):
    with pytest.raises(InvalidData, match="no regular file"):
        read_lock(tmp_path)
    with pytest.raises(StorageFailed):
        write_lock(tmp_path / "none" / "softlabels.lock", sl.open(source), "x")


@pytest.mark.parametrize("kind", ["fifo", "device", "large"])
def test_a_lock_file_that_would_hang_or_fill_the_memory_is_refused(tmp_path, kind):
    path = tmp_path / "softlabels.lock"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**34)
    with pytest.raises(InvalidData, match="not a lock file"):
        read_lock(path)


def test_the_command_pins_by_default(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["pull", str(source), "a", "-q", "--no-lock"]).exit_code == 0
    assert not (tmp_path / "softlabels.lock").exists()
    assert CliRunner().invoke(cli, ["pull", str(source), "b", "-q"]).exit_code == 0
    assert list(read_lock(tmp_path / "softlabels.lock")) == ["b"]
