"""Conformance tests for storages.

Subclass `StorageConformance` in a test module and provide the fixture ``storage``; pytest then runs every test of the
contract in `softlabels.store.storage.storage` against that implementation. Needs pytest.

    class TestPosixStorage(StorageConformance):
        @pytest.fixture
        def storage(self, tmp_path):
            return PosixStorage(tmp_path / "store")
"""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from softlabels.errors import StoreBusy
from softlabels.store.storage.storage import Storage

NAME = "records/00/00000000.json"
WRITERS = 8


class StorageConformance:
    """Tests that every storage passes."""

    @pytest.fixture
    def storage(self) -> Storage:
        """Return a storage whose location holds nothing yet."""
        raise NotImplementedError("a subclass of StorageConformance provides the fixture `storage`")

    @pytest.fixture
    def prepared(self, storage: Storage) -> Storage:
        """Return a storage that a store can be written to."""
        storage.prepare()
        return storage

    def test_its_location_is_text_for_messages(self, storage: Storage) -> None:
        """Messages name files by ``locate``, which starts with the location."""
        assert str(storage) == storage.location
        assert storage.locate(NAME) == f"{storage}/{NAME}"

    def test_a_location_that_holds_nothing_is_empty_and_not_an_error(self, storage: Storage) -> None:
        """Readers ask before anything was written."""
        assert storage.list_names("") == []
        assert list(storage.walk("records")) == []
        assert storage.info(NAME) is None
        with pytest.raises(FileNotFoundError):
            storage.read(NAME, 10)

    def test_preparing_twice_changes_nothing(self, prepared: Storage) -> None:
        """Two writers may start at the same time."""
        assert prepared.put_if_absent(NAME, b"data")
        prepared.prepare()
        assert prepared.read(NAME, 10) == b"data"

    def test_a_file_that_was_put_is_read_back(self, prepared: Storage) -> None:
        """Its content, its range, its blocks and its properties agree."""
        data = bytes(range(256)) * 64
        assert prepared.put_if_absent(NAME, data)
        assert prepared.read(NAME, len(data)) == data
        assert b"".join(prepared.read_blocks(NAME)) == data
        info = prepared.info(NAME)
        assert info is not None
        assert info.size == len(data)
        buffer = bytearray(100)
        prepared.read_range(NAME, 200, memoryview(buffer), of=len(data))
        assert bytes(buffer) == data[200:300]

    def test_the_first_of_two_puts_wins(self, prepared: Storage) -> None:
        """A file is never replaced."""
        assert prepared.put_if_absent(NAME, b"first")
        assert not prepared.put_if_absent(NAME, b"other")
        assert prepared.read(NAME, 10) == b"first"

    def test_of_many_puts_at_the_same_time_one_wins(self, prepared: Storage) -> None:
        """All writers then see the content of the winner."""
        barrier = threading.Barrier(WRITERS)

        def put(writer: int) -> bool:
            barrier.wait()
            return prepared.put_if_absent(NAME, b"%d" % writer)

        with ThreadPoolExecutor(WRITERS) as pool:
            won = list(pool.map(put, range(WRITERS)))
        assert won.count(True) == 1
        assert prepared.read(NAME, 10) == b"%d" % won.index(True)

    def test_a_file_larger_than_the_limit_is_not_read(self, prepared: Storage) -> None:
        """Memory is bounded by the caller."""
        prepared.put_if_absent(NAME, b"12345")
        assert prepared.read(NAME, 5) == b"12345"
        with pytest.raises(ValueError, match="5 bytes"):
            prepared.read(NAME, 4)

    def test_a_file_of_another_size_than_expected_gives_no_range(self, prepared: Storage) -> None:
        """A file that was cut short or extended is not what was committed."""
        prepared.put_if_absent(NAME, b"12345")
        with pytest.raises(ValueError, match="5 bytes"):
            prepared.read_range(NAME, 0, memoryview(bytearray(4)), of=6)
        with pytest.raises(FileNotFoundError):
            prepared.read_range("records/00/none", 0, memoryview(bytearray(4)), of=6)

    def test_an_empty_file_is_a_file(self, prepared: Storage) -> None:
        """Zero bytes are stored and found."""
        assert prepared.put_if_absent(NAME, b"")
        assert prepared.read(NAME, 0) == b""
        assert list(prepared.read_blocks(NAME)) == []

    def test_a_new_file_has_no_name_before_it_is_published(self, prepared: Storage) -> None:
        """Readers never see a file that is not complete."""
        file = prepared.create()
        file.write(b"one")
        file.write(memoryview(b"two"))
        assert file.read(2, 3) == b"etw"
        assert prepared.list_names("shards/00") == []
        file.publish("shards/00/a")
        assert prepared.read("shards/00/a", 10) == b"onetwo"
        file.discard()
        assert prepared.read("shards/00/a", 10) == b"onetwo", "discarding a published file does nothing"

    def test_a_file_is_replaced_by_one_that_is_published(self, prepared: Storage) -> None:
        """Small files beside a store, such as its card, are written again."""
        for data in (b"first", b"another"):
            file = prepared.create()
            file.write(data)
            file.publish("card.md")
            assert prepared.read("card.md", 10) == data

    def test_a_discarded_file_leaves_nothing(self, prepared: Storage) -> None:
        """Also if it is discarded twice."""
        file = prepared.create()
        file.write(b"half")
        file.discard()
        file.discard()
        assert [name for name in prepared.walk("") if not name.endswith(".lock")] == []

    def test_names_are_listed_sorted_and_by_directory(self, prepared: Storage) -> None:
        """``list_names`` shows one level with its directories, ``walk`` all files below."""
        names = ["a/1/x", "a/2/x", "a/2/y", "b/z", "top.json"]
        for name in reversed(names):
            prepared.put_if_absent(name, b"")
        assert [name for name in prepared.list_names("") if name != "tmp"] == ["a", "b", "top.json"]
        assert prepared.list_names("a") == ["1", "2"]
        assert prepared.list_names("a/2") == ["x", "y"]
        assert list(prepared.walk("a")) == ["a/1/x", "a/2/x", "a/2/y"]
        assert [name for name in prepared.walk("") if not name.startswith("tmp/")] == names

    def test_a_moved_file_has_its_new_name_only(self, prepared: Storage) -> None:
        """A name that is taken is not replaced."""
        prepared.put_if_absent("a/x", b"x")
        prepared.move("a/x", "quarantine/a/x")
        assert prepared.list_names("a") == []
        assert prepared.read("quarantine/a/x", 1) == b"x"
        prepared.put_if_absent("a/x", b"y")
        with pytest.raises(FileExistsError):
            prepared.move("a/x", "quarantine/a/x")
        assert (prepared.read("a/x", 1), prepared.read("quarantine/a/x", 1)) == (b"y", b"x")
        with pytest.raises(FileNotFoundError):
            prepared.move("a/none", "quarantine/a/none")

    def test_a_deleted_file_is_gone(self, prepared: Storage) -> None:
        """Deleting a file that is not there is an error of its own."""
        prepared.put_if_absent(NAME, b"x")
        prepared.delete(NAME)
        assert prepared.info(NAME) is None
        with pytest.raises(FileNotFoundError):
            prepared.delete(NAME)
        assert prepared.put_if_absent(NAME, b"again"), "the name is free"

    def test_the_version_of_a_file_changes_with_the_file(self, prepared: Storage) -> None:
        """A file that was replaced by one of the same size is told apart."""
        prepared.put_if_absent(NAME, b"one")
        first = prepared.info(NAME)
        assert first == prepared.info(NAME)
        prepared.delete(NAME)
        prepared.put_if_absent(NAME, b"two")
        second = prepared.info(NAME)
        assert first is not None
        assert second is not None
        assert first.version != second.version

    def test_files_and_the_clock_have_one_time(self, prepared: Storage) -> None:
        """The age of a file is the clock minus its time, whatever this machine's clock shows."""
        before = prepared.clock()
        prepared.put_if_absent(NAME, b"x")
        info = prepared.info(NAME)
        assert info is not None
        assert before <= info.modified <= prepared.clock()

    def test_settling_a_directory_with_files_is_silent(self, prepared: Storage) -> None:
        """Names that were seen are durable afterwards; only a power cut could show a difference."""
        prepared.put_if_absent(NAME, b"x")
        prepared.settle("records/00")
        assert prepared.read(NAME, 1) == b"x"

    def test_a_lock_is_held_by_one(self, prepared: Storage) -> None:
        """Closing it lets the next one in."""
        lock = prepared.lock("appending")
        held = not lock.closed
        with pytest.raises(StoreBusy):
            prepared.lock("appending")
        prepared.lock("other").close()
        lock.close()
        assert (held, lock.closed) == (True, True)
        prepared.lock("appending").close()

    def test_sizes_are_listed_by_name(self, prepared: Storage) -> None:
        """Files of a directory alone count, and a directory that does not exist is empty."""
        assert prepared.put_if_absent("records/00/00000001.json", b"abc")
        assert prepared.put_if_absent("records/00/00000002.json", b"abcd")
        assert prepared.put_if_absent("records/01/00004096.json", b"a")
        assert prepared.list_sizes("records/00") == {"00000001.json": 3, "00000002.json": 4}
        assert prepared.list_sizes("records/07") == {}

    def test_units_can_be_claimed(self, prepared: Storage) -> None:
        """One process may claim a unit again."""
        with prepared.claim() as claims:
            assert claims.take(0)
            assert claims.take(10**6)
            assert claims.take(0)

    def test_it_can_be_pickled(self, prepared: Storage) -> None:
        """Loader workers receive the storage of their store."""
        prepared.put_if_absent(NAME, b"x")
        copy = pickle.loads(pickle.dumps(prepared))  # noqa: S301  made one line above
        assert (copy.location, copy.identity) == (prepared.location, prepared.identity)
        assert copy.read(NAME, 1) == b"x"
        assert copy.put_if_absent("records/00/00000001.json", b"y")
