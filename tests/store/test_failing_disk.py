"""A machine that refuses is told from a store that is damaged, and nothing that was committed is lost."""

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import softlabels as sl
from softlabels.errors import StorageFailed, StoreBusy, StoreCorrupt
from softlabels.store import create_or_open, open_storage, verify
from softlabels.store.format import paths
from softlabels.store.storage import exclusive_rename
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
    monkeypatch.setattr(paths, "record_path", lambda unit: f"records/new/{unit:08d}.json")
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
    assert list(paths.committed_units(open_storage(root))) == [0]
    assert write(root, 1), "the same command again"
    assert not verify(root, deep=True).bad


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


def test_a_disk_that_cannot_read_a_range_has_lost_it(tmp_path, monkeypatch):
    """EIO is what a bad sector says: the unit is damaged, and the others are read."""
    root = forging.make(tmp_path / "s", KIND)
    lost, real = forging.shard_of(root), os.preadv

    def fail(descriptor, *rest):
        if os.path.samestat(os.fstat(descriptor), lost.stat()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, *rest)

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(
        StoreCorrupt, match=rf"{lost.name}, chunk 0 is damaged: .*Input/output error; run softlabels rep"
    ):
        sl.open(root).read([0])
    assert len(sl.open(root).read(range(6, 12))) == 6


def test_a_shard_that_is_cut_short_while_it_is_read_is_damaged(tmp_path, monkeypatch):
    """Between the look at its size and the read: no bytes of before stand in for those that are gone."""
    root = forging.make(tmp_path / "s", KIND)
    shard, real = forging.shard_of(root), os.preadv
    forging.read_all(root)

    def cut(descriptor, *rest):
        os.truncate(shard, 40)
        return real(descriptor, *rest)

    monkeypatch.setattr(os, "preadv", cut)
    with pytest.raises(StoreCorrupt, match=rf"{shard.name}, chunk 0 is damaged: it ends before the range does"):
        sl.open(root).read([0])


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
    before = (root / paths.record_path(0)).read_bytes()
    assert not write(root, 0), "the race is lost"
    assert (root / paths.record_path(0)).read_bytes() == before
    assert not list((root / "tmp").iterdir())
    assert not verify(root, deep=True).bad


@pytest.fixture
def without_renameat2(monkeypatch, without_links):
    """Nor can it rename without replacing."""

    def cannot(*_):
        raise NotImplementedError

    monkeypatch.setattr(exclusive_rename, "rename", cannot)
    held = {}
    monkeypatch.setattr(exclusive_rename, "_HELD", held)
    yield
    for file in held.values():
        file.close()


def test_where_nothing_is_exclusive_the_first_writer_goes_on(tmp_path, without_renameat2):
    root = tmp_path / "s"
    assert write(root, 0)
    assert not write(root, 0)
    assert write(root, 1)
    assert not verify(root, deep=True).bad


def test_where_nothing_is_exclusive_a_second_writer_is_refused(tmp_path, without_renameat2):
    root = tmp_path / "s"
    storage = open_storage(root)
    storage.prepare()
    held = storage.lock("only-writer")  # as another process would
    with pytest.raises(StoreBusy, match="another process"):
        write(root, 0)
    held.close()
    assert write(root, 0)


def test_a_lock_file_that_the_system_refuses_is_no_damage(tmp_path, monkeypatch):
    store = create_or_open(tmp_path / "s", forging.descriptor(KIND))
    store.lock().close()
    real = os.open

    def refuse(path, *rest, **options):
        if str(path).endswith(".lock"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    for take in (store.lock, lambda: store.claims().take(0)):
        with pytest.raises(StorageFailed, match=r"s: the store cannot be written, got Read-only file system; make the"):
            take()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.mknod(path, stat.S_IFSOCK)],
                         ids=["FIFO", "directory", "socket"])  # fmt: skip
def test_what_lies_in_a_locks_place_is_named_and_left(tmp_path, make):
    store = create_or_open(tmp_path / "s", forging.descriptor(KIND))
    path = tmp_path / "s" / "tmp" / "claims.lock"
    make(path)
    with pytest.raises(StoreCorrupt, match=r"claims\.lock is .*no regular file; delete it"):
        store.claims().take(0)
    assert path.exists()
    path.rmdir() if path.is_dir() else path.unlink()
    with store.claims() as claims:
        assert claims.take(0)


CLAIM = """
import sys
from softlabels.store import open_storage
with open_storage(sys.argv[1]).claim() as claims:
    print(claims.take(3), flush=True)
    sys.stdin.read()
"""


def test_a_claim_is_refused_to_others_until_its_process_ends(tmp_path):
    create_or_open(tmp_path / "s", forging.descriptor(KIND))
    top = Path(forging.__file__).parents[2]
    with (
        open_storage(tmp_path / "s").claim() as claims,
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, tmp_path / "s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=top,
        ) as other,
    ):  # fmt: skip
        assert other.stdout.readline() == "True\n"
        assert not claims.take(3)
        assert claims.take(2)
        other.kill()
        other.wait()
        assert claims.take(3), "it ended without a word"


def test_where_there_are_no_locks_anything_may_be_claimed(tmp_path, monkeypatch):
    """Work may then be done twice; it is committed once."""
    store = create_or_open(tmp_path / "s", forging.descriptor(KIND))

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with store.claims() as one, store.claims() as other:
        assert one.take(0)
        assert other.take(0)
    assert write(tmp_path / "s", 0)
    assert not write(tmp_path / "s", 0)


def test_a_system_that_lacks_renameat2_or_fails_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="No such file"):
        exclusive_rename.rename(tmp_path / "absent", tmp_path / "b")

    class Libc:
        def renameat2(self, *_):
            import ctypes

            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(exclusive_rename, "_LIBC", Libc())
    with pytest.raises(NotImplementedError):
        exclusive_rename.rename(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(exclusive_rename, "_LIBC", object())
    with pytest.raises(NotImplementedError):
        exclusive_rename.rename(tmp_path / "a", tmp_path / "b")
