"""A store in a directory of a POSIX file system.

Data is synced before it gets its name, and the directory after. `PosixStorage.put_if_absent` uses link(2), which
refuses to replace where rename(2) would overwrite. A failed fsync is never repeated on the same file: the kernel may
have dropped the pages, so the caller starts over with a new file.

A directory that exists need not be durable: the process that made it may have died before it synced the parent. Each
storage therefore syncs the parents of every directory that it writes to once, up to the mount point.

Nothing outside the store is touched: below its root no link is followed, and only regular files are opened
(docs/adr/0011-no-links-inside-a-store.md).
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from softlabels.errors import StorageFailed, StoreConflict, StoreCorrupt
from softlabels.store.storage import exclusive_rename
from softlabels.store.storage.posix_locks import PosixUnitLocks, lock_file, open_lock_file
from softlabels.store.storage.storage import TEMPORARY, FileInfo, Storage
from softlabels.store.storage.system_errors import system_errors

BLOCK_BYTES = 2**22
"""Size of the blocks of a file that is read from front to back."""

NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of link(2) on file systems without hard links."""


class PosixStorage(Storage):
    """Files of a store in a directory; see `Storage`.

    Args:
        directory: Path of the directory. A relative path is resolved now, so that the process may change its working
            directory.

    Example:
        >>> str(PosixStorage("labels"))
        'labels'
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.location = str(Path(directory))
        self._root = os.path.abspath(self.location)
        self._durable: set[str] = set()  # directories whose entries in their parents were synced
        self._inside: set[str] = set()  # directories that reading has checked for links

    @property
    def identity(self) -> str:
        """Path with all links resolved."""
        return os.path.realpath(self._root)

    # Reading

    def read(self, name: str, limit: int) -> bytes:
        """See `Storage.read`."""
        self._check_inside_once(os.path.dirname(name))
        with self._opened(name) as (descriptor, size):
            if size > limit:
                raise ValueError(f"{size:,} bytes, where at most {limit:,} are allowed")
            # The size, not the limit: read allocates what it is asked for.
            data = os.read(descriptor, size)
            while len(data) < size and (block := os.read(descriptor, size - len(data))):
                data += block
            return data

    def read_range(self, name: str, offset: int, into: memoryview, *, of: int) -> None:
        """See `Storage.read_range`.

        Reads and does not map: what was hashed must be what is decoded, and a mapped file that is cut short kills the
        process (docs/adr/0008-chunks-are-read-not-mapped.md).
        """
        self._check_inside_once(os.path.dirname(name))
        with self._opened(name) as (descriptor, size):
            if size != of:
                raise ValueError(f"it has {size:,} bytes where {of:,} were committed")
            # Chunks are read in any order: the range at once, and nothing behind it.
            os.posix_fadvise(descriptor, offset, len(into), os.POSIX_FADV_RANDOM)
            while len(into):
                count = os.preadv(descriptor, [into], offset)
                if count == 0:
                    raise ValueError("it ends before the range does")
                offset, into = offset + count, into[count:]

    def read_blocks(self, name: str) -> Iterator[bytes]:
        """See `Storage.read_blocks`."""
        self._check_inside(os.path.dirname(name))
        with self._opened(name) as (descriptor, _):
            while data := os.read(descriptor, BLOCK_BYTES):
                yield data

    def list_names(self, directory: str) -> list[str]:
        """See `Storage.list_names`."""
        self._check_inside(directory)
        try:
            with system_errors(self.locate(directory)):
                return sorted(os.listdir(self._path(directory)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def list_sizes(self, directory: str) -> dict[str, int]:
        """See `Storage.list_sizes`."""
        self._check_inside(directory)
        sizes = {}
        try:
            with system_errors(self.locate(directory)), os.scandir(self._path(directory)) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            sizes[entry.name] = status.st_size
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return sizes

    def walk(self, directory: str) -> Iterator[str]:
        """See `Storage.walk`."""
        for entry in self.list_names(directory):
            name = f"{directory}/{entry}" if directory else entry
            with suppress(FileNotFoundError):  # deleted since it was listed
                mode = os.lstat(self._path(name)).st_mode
                if stat.S_ISDIR(mode):
                    yield from self.walk(name)
                elif stat.S_ISREG(mode):
                    yield name

    def info(self, name: str) -> FileInfo | None:
        """See `Storage.info`."""
        try:
            with system_errors(self.locate(name)):
                status = os.lstat(self._path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        version = f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
        return FileInfo(status.st_size, status.st_mtime, version)

    def clock(self) -> float:
        """See `Storage.clock`."""
        file = self.create()
        try:
            return os.stat(file.path).st_mtime
        finally:
            file.discard()

    # Writing

    def prepare(self) -> None:
        """See `Storage.prepare`."""
        missing = []
        path = self._root
        while not os.path.isdir(path):
            if os.path.lexists(path):
                raise StoreConflict(
                    f"{self.location}: {path} is a file or a dangling link; name a directory for the store"
                )
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            with system_errors(self.location, writing=self.location), suppress(FileExistsError):
                os.mkdir(path)
        self._make_directory("")

    def create(self) -> PosixFile:
        """See `Storage.create`."""
        self._make_directory(TEMPORARY)
        name = f"{TEMPORARY}/{uuid.uuid4().hex}"
        with system_errors(self.locate(name), writing=self.location):
            descriptor = os.open(self._path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        return PosixFile(self, self._path(name), os.fdopen(descriptor, "w+b", buffering=0))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage.put_if_absent`."""
        directory = os.path.dirname(name)
        file = self.create()
        try:
            file.write(data)
            file.sync()
            self._make_directory(directory)
            won = self._link(file.path, name)
        finally:
            file.discard()
        # Also if the race was lost: the winner's file must be durable before anybody relies on it.
        self.settle(directory)
        return won

    def settle(self, directory: str) -> None:
        """See `Storage.settle`."""
        with system_errors(self.locate(directory), writing=self.location):
            _sync_directory(self._path(directory))

    def move(self, source: str, target: str) -> None:
        """See `Storage.move`."""
        origin, destination = os.path.dirname(source), os.path.dirname(target)
        self._check_inside(origin)
        os.lstat(self._path(source))
        self._make_directory(destination)
        if not self._link_or_rename(source, target):
            raise FileExistsError(errno.EEXIST, "the name is taken", self.locate(target))
        self.settle(destination)
        self.settle(origin)

    def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        directory = os.path.dirname(name)
        self._check_inside(directory)
        path = self._path(name)
        os.lstat(path)
        with system_errors(self.locate(name), writing=self.location):
            os.unlink(path)
        self.settle(directory)

    def lock(self, name: str) -> BinaryIO:
        """See `Storage.lock`."""
        self._make_directory(TEMPORARY)
        file = f"{TEMPORARY}/{name}.lock"
        return lock_file(self._path(file), self.locate(file), self.location)

    def claim(self) -> PosixUnitLocks:
        """See `Storage.claim`."""
        return PosixUnitLocks(self._open_claims)

    def _open_claims(self) -> BinaryIO:
        self._make_directory(TEMPORARY)
        file = f"{TEMPORARY}/claims.lock"
        return open_lock_file(self._path(file), self.locate(file), self.location)

    # Paths and directories

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, int]]:
        """Open a regular file for reading; yields its descriptor and size."""
        with system_errors(self.locate(name)):
            try:
                # Without O_NONBLOCK a FIFO would wait for its other end.
                descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.ENXIO}:
                    raise ValueError("a link or a socket, and no regular file") from None
                raise
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError("a directory, FIFO or device, and no regular file")
                yield descriptor, status.st_size
            finally:
                os.close(descriptor)

    def _check_inside_once(self, directory: str) -> None:
        """Raise as `_check_inside`, the first time that this storage reads a file of the directory."""
        if directory not in self._inside:
            self._check_inside(directory)
            self._inside.add(directory)

    def _check_inside(self, directory: str) -> None:
        """Raise StoreCorrupt if a directory of the store, or one above it, is a link, which may lead anywhere.

        The root itself may be a link, because its user has named it.
        """
        while directory:
            if os.path.islink(self._path(directory)):
                raise StoreCorrupt(
                    f"{self.locate(directory)} is a symbolic link, and a store's directories are its own; fetch the "
                    "store again, or copy it with what its links name (cp -rL)"
                )
            directory = os.path.dirname(directory)

    def _make_directory(self, directory: str) -> None:
        """Make a directory of the store unless it exists, and make its name and those above it durable.

        Raises:
            StorageFailed: The store was removed, or the system refused.
            StoreCorrupt: A link is in the way.
        """
        path = self._path(directory)
        exists = os.path.isdir(path)
        if exists and directory in self._durable:
            self._check_inside(directory)
            return
        if directory:
            parent = os.path.dirname(directory)
            self._make_directory(parent)
            if not exists:
                with system_errors(self.locate(directory), writing=self.location), suppress(FileExistsError):
                    os.mkdir(path)
            self._check_inside(directory)
            self.settle(parent)
        elif exists:
            self._sync_ancestors()
        else:
            raise StorageFailed(
                f"{self.location}: the store was removed while it was being written, and its units with it; run the "
                "same command again to make it anew"
            )
        self._durable.add(directory)

    def _sync_ancestors(self) -> None:
        """Sync the directories above the root, as far up as this user may have made directories."""
        path = os.path.realpath(self._root)
        while not os.path.ismount(path):
            path = os.path.dirname(path)
            if os.access(path, os.R_OK | os.W_OK):
                with system_errors(path, writing=path):
                    _sync_directory(path)

    def _link(self, path: str, name: str) -> bool:
        """Give a temporary file a name that nobody has; returns False if it is taken."""
        with system_errors(self.locate(name), writing=self.location):
            try:
                os.link(path, self._path(name))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return self._rename_exclusively(path, name)
        return True

    def _link_or_rename(self, source: str, target: str) -> bool:
        with system_errors(self.locate(target), writing=self.location):
            return self._rename_exclusively(self._path(source), target)

    def _rename_exclusively(self, path: str, name: str) -> bool:
        try:
            return exclusive_rename.rename(path, self._path(name))
        except NotImplementedError:
            return exclusive_rename.rename_alone(path, self._path(name), lambda: self.lock("only-writer"))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what this process has checked and synced."""
        return self.__dict__ | {"_durable": set(), "_inside": set()}


class PosixFile:
    """A temporary file of a store; see `NewFile`.

    Args:
        storage: Storage of the store.
        path: Path of the file.
        file: The file, open for writing and reading, unbuffered.
    """

    def __init__(self, storage: PosixStorage, path: str, file: RawIOBase) -> None:
        self.path = path
        self._storage = storage
        self._file = file  # without a buffer, which a forked child would write once more when it ends
        self._process = os.getpid()

    def write(self, data: bytes | memoryview) -> None:
        """See `NewFile.write`."""
        view = memoryview(data).cast("B")
        with system_errors(self._storage.location, writing=self._storage.location):
            while len(view):
                view = view[self._file.write(view) :]

    def read(self, offset: int, size: int) -> bytes:
        """See `NewFile.read`."""
        with system_errors(self._storage.location, writing=self._storage.location):
            return os.pread(self._file.fileno(), size, offset)

    def sync(self) -> None:
        """Make the bytes durable, then close the file; it is also closed if that fails."""
        with system_errors(self._storage.location, writing=self._storage.location), self._file:
            os.fsync(self._file.fileno())

    def publish(self, name: str) -> None:
        """See `NewFile.publish`."""
        self.sync()
        directory = os.path.dirname(name)
        self._storage._make_directory(directory)  # noqa: SLF001  one module, one file system
        with system_errors(self._storage.locate(name), writing=self._storage.location):
            os.rename(self.path, self._storage._path(name))  # noqa: SLF001
        self._storage.settle(directory)

    def discard(self) -> None:
        """See `NewFile.discard`."""
        # A forked child has a copy of this object, but the file is its parent's.
        if self._process != os.getpid():
            return
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.unlink(self.path)


def _sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
