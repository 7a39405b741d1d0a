"""A disk that is full, for real: every verb gives a typed error, nothing is lost, and the same call then succeeds."""

import contextlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.errors import SoftLabelsError, StorageFailed
from softlabels.sharing import verify_signature

PAGE = os.sysconf("SC_PAGE_SIZE")
DISK_BYTES = 2**23
HEADS = {"logits": sl.Head(classes=5, encoding="topk:2")}


class Disk:
    """A file system of 8 MiB in memory.

    Attributes:
        path: Directory that it is mounted at.
    """

    def __init__(self, path):
        self.path = path
        self._filler = path / "filler"

    def fill(self, pages):
        """Leave so many pages free, of which each file and each directory takes at least one."""
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (os.statvfs(self.path).f_bavail - pages) * PAGE)

    def free(self):
        """Free all of the space again."""
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield Disk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


def make(path, rows=60, first=0):
    logits = np.random.default_rng(first).normal(size=(rows, 5)).astype(np.float32)
    with sl.create(path, heads=HEADS, unit_rows=20, teacher="one") as writer:
        writer.append([f"row {first + i}" for i in range(rows)], {"logits": logits})
    return path


def try_until_it_fits(disk, call):
    """Call with more and more pages free, from none on; returns the number of calls that failed."""
    messages = []
    while True:
        disk.fill(len(messages))
        try:
            call()
            break
        except StorageFailed as error:
            messages.append(str(error))
        finally:
            disk.free()
    assert all(re.search(r"No space left on device.*ree space", message) for message in messages), messages
    return len(messages)


def test_push_and_pull_resume_when_there_is_space_again(disk, tmp_path, monkeypatch):
    """Each call may get a file further; none of the copies looks complete before it is."""
    monkeypatch.chdir(disk.path)
    source = make(tmp_path / "source")
    digest = sl.open(source).snapshot.digest

    def pull():
        sl.pull(source, "copy", lock="softlabels.lock")

    for copy, call in ((disk.path / "pushed", lambda: sl.push(source, disk.path / "pushed")), (Path("copy"), pull)):
        assert try_until_it_fits(disk, lambda copy=copy, call=call: _unsealed_or(digest, copy, call)) > 3
        assert sl.verify(copy, deep=True).ok
        assert sl.open(copy).snapshot.digest == digest
    assert digest in Path("softlabels.lock").read_text()


def _unsealed_or(digest, copy, call):
    try:
        call()
    except StorageFailed:
        with contextlib.suppress(SoftLabelsError):
            assert sl.open(copy).snapshot.digest == digest, "a snapshot comes last"
        raise


def test_a_merge_resumes_when_there_is_space_again(disk, tmp_path):
    stores = [make(tmp_path / "a"), make(tmp_path / "b", first=40)]
    expected = sl.merge(stores, out=tmp_path / "alone", conflicts="first")
    assert try_until_it_fits(disk, lambda: sl.merge(stores, out=disk.path / "merged", conflicts="first")) > 3
    assert sl.verify(disk.path / "merged", deep=True).ok
    assert len(sl.open(disk.path / "merged")) == expected.rows == 100


def test_describing_and_signing_again_leave_what_was_there(disk, tmp_path):
    """A signature, a card or a description of before is never lost, also if there is no space for the next one."""
    pytest.importorskip("cryptography", reason="signatures need the extra sign")
    store, key = make(disk.path / "labels"), tmp_path / "key.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    sl.describe(store, license="MIT", contact="a")
    sl.sign(store, key)

    def describe():
        sl.describe(store, terms="Long terms. " * 500)

    def sign():
        sl.sign(store, key)

    for call in (describe, sign):
        before = contents(store)
        disk.fill(0)
        with pytest.raises(StorageFailed, match="No space left on device"):
            call()
        disk.free()
        assert contents(store).items() >= before.items()
        try_until_it_fits(disk, call)
    assert verify_signature(store, key).snapshot.digest == sl.open(store).snapshot.digest
    assert sl.verify(store, deep=True).ok


def contents(store):
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.parent.name != "tmp"
    }


@pytest.mark.parametrize("full", ["target", "temporary"])
def test_an_exported_model_is_written_as_a_whole_or_not_at_all(disk, tmp_path, monkeypatch, full):
    """An older file stays; the directory for temporary files may be the full one, too."""
    out = (disk.path if full == "target" else tmp_path) / "model.pt2"
    out.write_bytes(b"an older model")
    if full == "temporary":
        monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    disk.fill(0)
    with pytest.raises(StorageFailed, match=r"No space left on device.*ree space"):
        sl.export_model(network, {"x": np.zeros((9, 8, 8), np.float32)}, out)
    assert out.read_bytes() == b"an older model"
