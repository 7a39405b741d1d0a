"""Stores in directories."""

import os
import pickle
import signal
import sys
from pathlib import Path

import pytest

import softlabels as sl
from softlabels.errors import StorageFailed, StoreConflict, StoreCorrupt
from softlabels.store.storage.posix import PosixStorage
from softlabels.store.storage.testing import StorageConformance
from tests.corpus import forging

KIND = "topk-zarr"


class TestPosixStorage(StorageConformance):
    """A directory that does not exist yet."""

    @pytest.fixture
    def storage(self, tmp_path):
        return PosixStorage(tmp_path / "deep" / "store")


class TestRelativePosixStorage(StorageConformance):
    """A relative path to a directory that exists."""

    @pytest.fixture
    def storage(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("store").mkdir()
        return PosixStorage("store")


class TestLinkedPosixStorage(StorageConformance):
    """A link to a directory: its user has named it."""

    @pytest.fixture
    def storage(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "store").symlink_to(tmp_path / "real")
        return PosixStorage(tmp_path / "store")


@pytest.fixture
def storage(tmp_path):
    storage = PosixStorage(tmp_path / "s")
    storage.prepare()
    return storage


def test_a_relative_path_stays_valid_when_the_process_changes_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forging.make(Path("s"), KIND)
    store = sl.open("s")
    monkeypatch.chdir("/")
    assert len(store.read(range(store.rows))) == forging.ROWS
    assert len(pickle.loads(pickle.dumps(store)).read([0])) == 1  # noqa: S301  made here
    assert str(store.storage) == "s"


def test_a_file_in_the_place_of_the_store_or_above_it_is_a_conflict(tmp_path):
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file", tmp_path / "file" / "s"):
        with pytest.raises(StoreConflict, match="file is a file or a dangling link; name a directory"):
            PosixStorage(path).prepare()
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("action", ["create", "put", "lock", "claim", "clock"])
def test_a_store_that_was_removed_is_not_made_anew_by_its_writer(storage, tmp_path, action):
    actions = {
        "create": storage.create,
        "put": lambda: storage.put_if_absent("records/00/a", b"x"),
        "lock": lambda: storage.lock("appending"),
        "claim": lambda: storage.claim().take(0),
        "clock": storage.clock,
    }
    (tmp_path / "s").rmdir()
    with pytest.raises(StorageFailed, match="the store was removed while it was being written"):
        actions[action]()
    assert not (tmp_path / "s").exists()


def test_a_store_that_is_removed_while_a_file_is_written_is_said(storage, tmp_path):
    import shutil

    file = storage.create()
    file.write(b"data")
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(StorageFailed, match="removed"):
        file.publish("shards/00/a")
    file.discard()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("directory", ["records", "records/00", "tmp", "quarantine"])
def test_a_directory_that_is_a_link_is_refused_by_every_verb(storage, tmp_path, directory):
    (tmp_path / "outside").mkdir()
    (tmp_path / "s" / "records").mkdir(exist_ok=True)
    path = tmp_path / "s" / directory
    if path.is_dir():
        path.rmdir()
    path.symlink_to(tmp_path / "outside")
    name = f"{directory}/x"
    verbs = [
        lambda: storage.read(name, 10),
        lambda: storage.read_range(name, 0, memoryview(bytearray(1)), of=1),
        lambda: list(storage.read_blocks(name)),
        lambda: storage.list_names(directory),
        lambda: list(storage.walk(directory)),
        lambda: storage.put_if_absent(name, b"x"),
        lambda: storage.create().publish(name),
        lambda: storage.delete(name),
        lambda: storage.move(name, "elsewhere/x"),
    ]
    for verb in verbs:
        with pytest.raises(StoreCorrupt, match=f"{directory} is a symbolic link"):
            verb()
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_not_a_regular_file_is_not_read(storage, tmp_path, make):
    make(tmp_path / "s" / "x")
    for verb in (lambda: storage.read("x", 10), lambda: list(storage.read_blocks("x"))):
        with pytest.raises(ValueError, match="no regular file"):
            verb()
    assert storage.info("x") is None


def test_a_forked_child_leaves_its_parents_file_alone(storage):
    """A child that ends by an exception runs the same clean-up as its parent."""
    file = storage.create()
    file.write(b"half ")
    if (child := os.fork()) == 0:
        try:
            file.discard()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    file.write(b"and half")
    file.publish("shards/00/a")
    assert storage.read("shards/00/a", 100) == b"half and half"


SYNCED = """
import os, sys
from softlabels.store.storage.posix import PosixStorage

synced = []
real = os.fsync
def fsync(descriptor):
    synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    real(descriptor)
os.fsync = fsync
storage = PosixStorage(sys.argv[1])
storage.prepare()
storage.put_if_absent("records/00/b", b"x")
first = len(synced)
storage.put_if_absent("records/00/c", b"x")
print(*[os.path.relpath(path, sys.argv[1]) for path in synced[:first]], sep="\\n")
print("again", len(synced) - first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_directories_that_exist_are_synced_once_by_each_process(storage, tmp_path):
    """The process that made them may have died before it did."""
    import subprocess

    assert storage.put_if_absent("records/00/a", b"x")
    done = subprocess.run(
        [sys.executable, "-c", SYNCED, tmp_path / "s"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    *paths, again = done.stdout.splitlines()
    assert {"..", ".", "records", "records/00"} <= set(paths)
    assert again == "again 2", "then only the file and its directory"


def test_a_writer_killed_between_two_calls_leaves_no_name(storage, tmp_path):
    if (child := os.fork()) == 0:
        os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        storage.put_if_absent("records/00/a", b"x")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert storage.list_names("records/00") == []
    assert len(storage.list_names("tmp")) == 1
    assert storage.put_if_absent("records/00/a", b"y")


NOBODY = """
import decimal, os, sys
import pyarrow, pyarrow.parquet  # sealing imports it, and another user may not read this installation
import softlabels as sl
from softlabels.errors import StorageFailed
from softlabels.store import create_or_open
from tests.corpus import forging

root = sys.argv[1]
sl.gc(root)
sl.verify(root, deep=True)  # imports what a user without access to the interpreter's files could not
os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert sl.seal(root) == sl.open(root).snapshot, "nothing is to be done"
assert sl.verify(root, deep=True).ok
store = create_or_open(root, forging.descriptor("topk-zarr"))
with store.claims():
    assert list(store.missing()) == []
for verb in (store.lock, lambda: store.begin(0), lambda: store.claims().take(0), lambda: sl.gc(root)):
    try:
        verb()
    except StorageFailed as error:
        print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_store_of_another_user_is_read_and_what_is_refused_is_the_store():
    """Not one of its locks or temporary files, which the user never named."""
    import subprocess
    import tempfile

    top = Path(forging.__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = forging.make(Path(folder) / "s", KIND)
        done = subprocess.run(
            [sys.executable, "-c", NOBODY, root], capture_output=True, text=True, check=False, cwd=top,
            env=os.environ | {"HOME": folder},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    advice = "run as the owner of the store, or copy the store to a directory of your own"
    assert done.stdout.splitlines() == [f"{root}: the store cannot be written, got Permission denied; {advice}"] * 4
