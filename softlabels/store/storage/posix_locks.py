"""Locks of a store in a directory: they end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import BinaryIO, Self

from softlabels.errors import StoreBusy, StoreCorrupt
from softlabels.store.storage.system_errors import system_errors


def open_lock_file(path: str, label: str, store: str) -> BinaryIO:
    """Open the file behind a lock, made if it does not exist.

    Args:
        path: Path of the file.
        label: Location of the file, for messages.
        store: Location of the store, for messages.

    Raises:
        StoreCorrupt: The path is a link, or not a regular file.
        StorageFailed: The system refused.
    """
    # Neither followed nor truncated: in a store that somebody else made, this name may lead anywhere.
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with system_errors(label, writing=store):
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
                raise
            problem = f"{label} is a symbolic link, a directory or a socket, and no regular file"
            raise StoreCorrupt(f"{problem}; delete it, and run the same command again") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreCorrupt(f"{label} is no regular file; delete it, and run the same command again")
    return os.fdopen(descriptor, "r+b", buffering=0)


def lock_file(path: str, label: str, store: str) -> BinaryIO:
    """Return an open file that holds an exclusive lock until it is closed.

    Args:
        path: Path of the file.
        label: Location of the file, for messages.
        store: Location of the store, for messages.

    Raises:
        StoreBusy: Another process holds the lock.
        StoreCorrupt: The path is a link, or not a regular file.
    """
    file = open_lock_file(path, label, store)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreBusy(
            f"{store} is being written by another process; wait for it, or use another directory"
        ) from error
    return file


class PosixUnitLocks:
    """Claims on units as locks on bytes of one file; see `UnitLocks`.

    If the file system has no such locks, every unit can be claimed. The file is opened at the first claim, so a
    complete store may be read-only.

    Args:
        open_file: Opens the file.

    Attributes:
        lapse_seconds: 0, because the locks of a process end with it.
    """

    lapse_seconds = 0.0

    def __init__(self, open_file: Callable[[], BinaryIO]) -> None:
        self._open_file = open_file
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, unit: int) -> bool:
        """Claim a unit; returns False if another process has claimed it.

        Raises:
            StorageFailed: The store cannot be written.
            StoreCorrupt: The path of the file is a link, or not a regular file.
        """
        if self._file is None:
            self._file = self._open_file()
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, unit)
        except OSError as error:
            return error.errno not in {errno.EACCES, errno.EAGAIN}
        return True

    def close(self) -> None:
        """Release all claims."""
        if self._file is not None:
            self._file.close()
            self._file = None
