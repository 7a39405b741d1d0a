"""A machine that refuses is told from a store that is damaged, and nothing that was committed is lost."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from softlabels.errors import StorageFailed, StoreBusy
from softlabels.store import create_or_open, exclusive, files, layout, verify
from tests.corpus import forging

KIND = "topk-zarr"


def write(root, unit):
    store = create_or_open(root, forging.descriptor(KIND))
    with store.begin(unit) as writer:
        writer.append(forging.columns(KIND, store.descriptor.unit_range(unit)))
        return writer.commit()


REFUSED = {
    errno.ENOSPC: "free space or inodes", errno.EDQUOT: "larger quota", errno.EROFS: "writable", errno.EMFILE: "ulimit",
    errno.EACCES: "owner", errno.EIO: "system's log",
}  # fmt: skip


@pytest.mark.parametrize("call", ["open", "fsync", "link", "mkdir"])
@pytest.mark.parametrize("code", REFUSED, ids=errno.errorcode.get)
def test_what_the_system_refuses_while_writing_is_said_with_advice(tmp_path, monkeypatch, code, call):
    root = tmp_path / "s"
    assert write(root, 0)
    monkeypatch.setattr(layout, "record_path", lambda root, unit: root / "records" / "new" / f"{unit:08d}.json")
    real = getattr(os, call)

    def refuse(path, *rest, **options):
        if call != "open" or rest[0] & os.O_CREAT:
            raise OSError(code, os.strerror(code), str(path) if call != "fsync" else None)
        return real(path, *rest, **options)

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StorageFailed, match=REFUSED[code]) as caught:
        write(root, 1)
    assert os.strerror(code) in str(caught.value)
    monkeypatch.undo()
    assert list(layout.committed_units(root)) == [0]
    assert write(root, 1), "the same command again"
    assert verify(root, deep=True).ok


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.ENOMEM], ids=errno.errorcode.get)
def test_what_the_system_refuses_while_reading_is_not_taken_for_damage(tmp_path, monkeypatch, code):
    root = forging.make(tmp_path / "s", KIND)
    real = os.open

    def refuse(path, *rest, **options):
        if "shards" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    for use in (forging.read_all, verify):
        with pytest.raises(StorageFailed, match="shards"):
            use(root)


def test_too_many_open_files_for_real(tmp_path):
    """A process whose limit is used up reads nothing, says so, and reads on when files were closed."""
    root = forging.make(tmp_path / "s", KIND)
    code = f"""
import os, resource
from softlabels.errors import StorageFailed
from tests.corpus import forging
from pathlib import Path
root = Path({str(root)!r})
forging.read_all(root)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {resource.getrlimit(resource.RLIMIT_NOFILE)[1]}))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
try:
    forging.read_all(root)
except StorageFailed as error:
    assert "ulimit" in str(error)
else:
    raise SystemExit("read without a descriptor?")
for one in held:
    os.close(one)
forging.read_all(root)
"""
    top = Path(forging.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=top)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def without_links(monkeypatch):
    """A file system such as exFAT: link(2) is not permitted."""

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links_a_rename_that_never_replaces_commits(tmp_path, without_links):
    root = tmp_path / "s"
    assert write(root, 0)
    before = layout.record_path(root, 0).read_bytes()
    assert not write(root, 0), "the race is lost"
    assert layout.record_path(root, 0).read_bytes() == before
    assert not list((root / "tmp").iterdir())
    assert verify(root, deep=True).ok


@pytest.fixture
def without_renameat2(monkeypatch, without_links):
    """Nor can it rename without replacing."""

    def cannot(*_):
        raise NotImplementedError

    monkeypatch.setattr(exclusive, "rename", cannot)
    held = {}
    monkeypatch.setattr(exclusive, "_HELD", held)
    yield
    for file in held.values():
        file.close()


def test_where_nothing_is_exclusive_the_first_writer_goes_on(tmp_path, without_renameat2):
    root = tmp_path / "s"
    assert write(root, 0)
    assert not write(root, 0)
    assert write(root, 1)
    assert verify(root, deep=True).ok


def test_where_nothing_is_exclusive_a_second_writer_is_refused(tmp_path, without_renameat2):
    root = tmp_path / "s"
    files.make_directory(root, root)
    held = files.lock(root, "only-writer.lock")  # as another process would
    with pytest.raises(StoreBusy, match="another process"):
        write(root, 0)
    held.close()
    assert write(root, 0)


def test_a_system_that_lacks_renameat2_or_fails_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="No such file"):
        exclusive.rename(tmp_path / "absent", tmp_path / "b")

    class Libc:
        def renameat2(self, *_):
            import ctypes

            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(exclusive, "_LIBC", Libc())
    with pytest.raises(NotImplementedError):
        exclusive.rename(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(exclusive, "_LIBC", object())
    with pytest.raises(NotImplementedError):
        exclusive.rename(tmp_path / "a", tmp_path / "b")
