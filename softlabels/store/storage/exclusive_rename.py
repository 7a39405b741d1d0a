"""Renames that never replace, for file systems without hard links (exFAT, some FUSE and network mounts).

renameat2(2) with RENAME_NOREPLACE is as good as link(2). Where a file system has neither, one process at a time may
write: it takes a lock of the store for as long as it lives, and renames only to names that are free.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

AT_FDCWD = -100
RENAME_NOREPLACE = 1

_LIBC = ctypes.CDLL(None, use_errno=True)
_THREADS = threading.Lock()
_HELD: dict[tuple[int, Path], BinaryIO] = {}
"""Locks by process and directory: a forked child must ask for its own."""


def rename(source: Path, target: Path) -> bool:
    """Rename unless ``target`` exists; True where it did.

    Raises:
        NotImplementedError: this system or file system cannot.
        OSError: it failed.
    """
    if not hasattr(_LIBC, "renameat2"):
        raise NotImplementedError
    if _LIBC.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
        raise NotImplementedError
    raise OSError(number, os.strerror(number), str(target))


def rename_alone(source: Path, target: Path, take_lock: Callable[[], BinaryIO]) -> bool:
    """Rename unless ``target`` exists, as the one process that may write here; True where it did.

    Args:
        source: a file of the store's temporary directory.
        target: its name to be.
        take_lock: the lock of the store, held until this process ends.

    Raises:
        StoreBusy: another process is writing.
    """
    with _THREADS:
        mine = (os.getpid(), source.parent)
        if mine not in _HELD:
            _HELD[mine] = take_lock()
        if target.exists():
            return False
        source.rename(target)
        return True
