"""Interface between a store and the place that holds its files.

A store is a flat set of named files. Names are relative POSIX paths that `softlabels.store.format.paths` computes, such
as ``records/00/00000003.json``. Everything that reads or changes a file goes through the verbs of `Storage`, so that a
store works the same in a directory and in a bucket.

The contract covers what object storage can do. A file gets its name when its bytes are complete, and is never changed
afterwards. Every verb that changes something is durable when it returns. No verb renames an existing file except
`Storage.move`, which only maintenance uses and which may copy and delete.

`softlabels.store.storage.testing.StorageConformance` checks an implementation against this contract.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Protocol, Self

from blake3 import blake3

TEMPORARY = "tmp"
"""Directory that a storage may use for files that have no name yet, and for locks."""


class FileInfo(NamedTuple):
    """Properties of a stored file.

    Attributes:
        size: Size in bytes.
        modified: Time of the last change by the clock of the storage, in seconds since 1970.
        version: Text that differs after every change of the file, such as inode and times, or an ETag.
    """

    size: int
    modified: float
    version: str


class WritableFile(Protocol):
    """Bytes that are appended, and can be read again."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            StorageFailed: The storage refused them, for example because it is full.
        """

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes that were written, fewer than ``size`` at the end.

        Args:
            offset: Position of the first byte.
            size: Number of bytes.
        """


class NewFile(WritableFile, Protocol):
    """A file that is being written and has no name yet."""

    def publish(self, name: str) -> None:
        """Store the file durably under ``name``, which no other writer uses, and close it.

        An older file of that name is replaced in one step: readers see one of both, whatever fails.

        Raises:
            StorageFailed: Nothing was stored under that name, or it cannot be relied on. Write a new file instead of
                calling this again: the system may have dropped bytes that it could not write.
            StorageUnknown: It is unknown if the file was stored.
        """

    def discard(self) -> None:
        """Delete what was written, unless it was published; raises nothing."""


class Lock(Protocol):
    """An exclusive lock, held until it is closed or its process ends."""

    @property
    def closed(self) -> bool:
        """True once the lock was released."""

    def close(self) -> None:
        """Release the lock."""


class UnitLocks(Protocol):
    """Claims of this process on units, so that other processes start with other units.

    A claim is advice. Two processes that write one unit still commit it once.

    Attributes:
        lapse_seconds: Time until the claim of a process that died can be taken over.
    """

    lapse_seconds: float

    def take(self, unit: int) -> bool:
        """Claim a unit; returns False if another process has claimed it.

        Args:
            unit: Index of the unit.
        """

    def close(self) -> None:
        """Release all claims."""

    def __enter__(self) -> Self:
        """Return the claims."""

    def __exit__(self, *_: object) -> None:
        """Release all claims."""


class Storage(ABC):
    """Files of one store.

    All names are relative to the store. Implementations can be pickled and shared between threads.

    Attributes:
        location: Location as the user typed it, for messages.
        lists: True if the storage can list its files. One that cannot knows the descriptor and the snapshots alone.
        read_threads: Number of requests for files or chunks at a time; 1 where a file comes at once.
    """

    location: str
    lists: ClassVar[bool] = True
    read_threads: ClassVar[int] = 1

    def __str__(self) -> str:
        return self.location

    def locate(self, name: str) -> str:
        """Return the location of a file for messages.

        Args:
            name: Name of the file.
        """
        return f"{self.location}/{name}"

    @property
    @abstractmethod
    def identity(self) -> str:
        """Absolute location, the same however it was reached."""

    @property
    def origin(self) -> str:
        """Location that names this content later, too: with the commit of a repository that has some."""
        return self.location

    @abstractmethod
    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file.

        Args:
            name: Name of the file.
            limit: Largest size in bytes to accept.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is larger than ``limit``, or not a regular file.
            StorageFailed: The storage refused, which says nothing about the bytes.
            StoreCorrupt: The path leads out of the store.
        """

    @abstractmethod
    def read_range(self, name: str, offset: int, into: memoryview, *, of: int) -> None:
        """Fill a buffer with a range of a file.

        Args:
            name: Name of the file.
            offset: Position of the first byte.
            into: Buffer of as many bytes as the range has.
            of: Size in bytes that the whole file must have.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file has another size, ends early, or is not a regular file.
            StorageFailed: The storage refused, which says nothing about the bytes.
            StoreCorrupt: The path leads out of the store.
        """

    def read_verified(self, name: str, offset: int, into: memoryview, *, of: int, digest: str) -> None:
        """Fill a buffer with a range of a file whose hash is known.

        Implementations may take the bytes from a cache, and may fetch them again if they arrive damaged.

        Args:
            name: Name of the file.
            offset: Position of the first byte.
            into: Buffer of as many bytes as the range has.
            of: Size in bytes that the whole file must have.
            digest: BLAKE3 of the range, hexadecimal.

        Raises:
            ValueError: The bytes have another hash, or as `read_range` raises.
            FileNotFoundError: There is no such file.
            StorageFailed: The storage refused, which says nothing about the bytes.
        """
        self.read_range(name, offset, into, of=of)
        if blake3(into).hexdigest() != digest:
            raise ValueError(f"bytes {offset:,} to {offset + len(into):,} are not what was committed")

    @abstractmethod
    def read_blocks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file of any size in blocks of a few MiB; raises as `read` does."""

    @abstractmethod
    def list_names(self, directory: str) -> list[str]:
        """Return the sorted names of files and directories directly in a directory; empty if it does not exist.

        Args:
            directory: Name of the directory; ``""`` for the top of the store.
        """

    def list_sizes(self, directory: str) -> dict[str, int]:
        """Return the size in bytes of each regular file directly in a directory, by its name.

        Args:
            directory: Name of the directory.
        """
        infos = {name: self.info(f"{directory}/{name}") for name in self.list_names(directory)}
        return {name: info.size for name, info in infos.items() if info is not None}

    @abstractmethod
    def walk(self, directory: str) -> Iterator[str]:
        """Yield the names of all files in a directory and below, sorted; links are not followed."""

    @abstractmethod
    def info(self, name: str) -> FileInfo | None:
        """Return the properties of a file; None if there is no such file."""

    @abstractmethod
    def clock(self) -> float:
        """Return the time by the clock of the storage, in seconds since 1970."""

    def check_writable(self) -> None:  # noqa: B027  most storages find out when they write
        """Raise an error if nothing can be stored here, before expensive work begins; the store is not changed.

        Raises:
            StorageFailed: The place does not exist, or the credentials do not permit writing.
            StorageUnsupported: The storage is read only, or cannot hold a store of several writers.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Make the location ready for a new store; does nothing if it is.

        Raises:
            StoreConflict: The location holds something that cannot become a store, such as a file.
            StorageFailed: The storage refused.
        """

    @abstractmethod
    def create(self) -> NewFile:
        """Start a file that gets its name when it is published.

        Raises:
            StorageFailed: The storage refused, or the store was removed.
        """

    @abstractmethod
    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store a file in one step unless the name is taken; returns True if this call stored it.

        Returns False only when the file of the other writer is durable. After a lost response, an implementation reads
        the file back: equal bytes count as its own.

        Args:
            name: Name of the file.
            data: Its content.

        Raises:
            StorageFailed: Nothing was stored.
            StorageUnknown: It is unknown if the file was stored; nothing was deleted.
            StoreBusy: The storage cannot do this for two writers, and there is another.
        """

    @abstractmethod
    def settle(self, directory: str) -> None:
        """Make durable every name that was seen in a directory, whoever stored it.

        A name is visible before it is durable if its writer died in between.
        """

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Give a file another name, durably.

        Raises:
            FileNotFoundError: There is no such file.
            FileExistsError: The target name is taken; nothing was changed.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, durably; FileNotFoundError if there is none."""

    @abstractmethod
    def lock(self, name: str) -> Lock:
        """Take an exclusive lock of the store.

        Args:
            name: Name of the lock.

        Raises:
            StoreBusy: Another process holds it.
        """

    @abstractmethod
    def claim(self) -> UnitLocks:
        """Return the claims of this process on units."""


Location = str | os.PathLike[str] | Storage
"""A location as it is accepted everywhere: a path, a URL, or an open storage."""
