"""Renames that never replace a file, for file systems without hard links (exFAT, some FUSE and network mounts).

renameat2(2) with RENAME_NOREPLACE is as good as link(2). If a file system has neither, only one process at a time may
write. It takes a lock of the store until it ends, and renames only to names that are free.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable

from softlabels.store.storage.storage import Lock

AT_FDCWD = -100
RENAME_NOREPLACE = 1

_LIBC = ctypes.CDLL(None, use_errno=True)
_THREADS = threading.Lock()
_HELD: dict[tuple[int, str], Lock] = {}
"""Locks by process and directory: a forked child has to take its own."""


def rename(source: str, target: str) -> bool:
    """Rename a file unless the target exists; returns True if it was renamed.

    Args:
        source: Path of the file.
        target: Its new path.

    Raises:
        NotImplementedError: The system or file system has no such operation.
        OSError: The rename failed.
    """
    if not hasattr(_LIBC, "renameat2"):
        raise NotImplementedError
    if _LIBC.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
        raise NotImplementedError
    raise OSError(code, os.strerror(code), target)


def rename_alone(source: str, target: str, take_lock: Callable[[], Lock]) -> bool:
    """Rename a file unless the target exists, as the only process that writes; returns True if it was renamed.

    Args:
        source: Path of a file in the store's temporary directory.
        target: Its new path.
        take_lock: Takes the lock of the store, which this process holds until it ends.

    Raises:
        StoreBusy: Another process is writing.
    """
    with _THREADS:
        holder = (os.getpid(), os.path.dirname(source))
        if holder not in _HELD:
            _HELD[holder] = take_lock()
        if os.path.lexists(target):
            return False
        os.rename(source, target)
        return True
