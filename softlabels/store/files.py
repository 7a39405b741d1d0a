"""All input and output of the store, behind a few verbs, on a POSIX file system.

Each verb that changes something is durable when it returns: data is synced before it gets its name, and the directory
after. ``put_if_absent`` is the only way a name that others wait for comes into being; it uses link(2), which refuses to
replace where rename(2) would overwrite. A failed fsync is never tried again on the same file: the kernel may have
dropped the pages, so the caller starts over with a new file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from softlabels.errors import StoreBusy

TEMPORARY = "tmp"
"""Directory of files that have no name yet; what is left there after a crash is litter."""


def create_temporary(root: Path) -> tuple[Path, BinaryIO]:
    """A new file that nobody else has, open for writing and reading."""
    folder = root / TEMPORARY
    make_directory(folder)
    path = folder / uuid.uuid4().hex
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    return path, os.fdopen(descriptor, "w+b")


def sync_and_close(file: BinaryIO) -> None:
    """Make the bytes durable, then close; the file is closed also where that fails."""
    try:
        file.flush()
        os.fsync(file.fileno())
    finally:
        file.close()


def publish(temporary: Path, target: Path) -> None:
    """Give a synced temporary file its unique name, durably. The name must be one that nobody else uses."""
    make_directory(target.parent)
    temporary.rename(target)
    sync_directory(target.parent)


def put_if_absent(root: Path, target: Path, data: bytes) -> bool:
    """Put ``data`` at ``target`` unless something is there; True where it is ours.

    Raises:
        StoreBusy: this file system has no hard links, so a second writer could not be told apart.
    """
    temporary, file = create_temporary(root)
    try:
        try:
            file.write(data)
        finally:
            sync_and_close(file)
        make_directory(target.parent)
        won = _link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    # Also when the race was lost: what the winner put there must be durable before anybody relies on it.
    sync_directory(target.parent)
    return won


def _link(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            raise StoreBusy(
                f"{target.parent} is on a file system without hard links ({error.strerror}), where a commit cannot be "
                "made safely; put the store on another file system"
            ) from error
        raise
    return True


def make_directory(path: Path) -> None:
    """Make a directory and its parents, durably; fine where it exists."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename within the store, durably on both sides."""
    make_directory(target.parent)
    source.rename(target)
    sync_directory(target.parent)
    sync_directory(source.parent)


def lock(root: Path, name: str) -> BinaryIO:
    """Hold a lock of the store until the file that is returned is closed, or the process ends.

    Raises:
        StoreBusy: another process holds it.
    """
    make_directory(root / TEMPORARY)
    file = (root / TEMPORARY / name).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreBusy(f"{root} is being written by another process; wait for it, or use another directory") from error
    return file


def read(path: Path, limit: int) -> bytes:
    """The whole of a file of at most ``limit`` bytes.

    Raises:
        ValueError: it is larger, or no regular file.
        FileNotFoundError: it is not there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > limit:
            raise ValueError(f"{status.st_size:,} bytes, where at most {limit:,} are allowed")
        return file.read(limit)


def read_range(path: Path, offset: int, into: memoryview, *, of: int) -> None:
    """Fill ``into`` with the bytes from ``offset`` of a file that has ``of`` bytes in all.

    Read, not mapped: what was hashed must be what is decoded, whatever happens to the file in between, and a mapped
    file that is cut short kills the process (docs/adr/0008-chunks-are-read-not-mapped.md).

    Raises:
        ValueError: it has another size, ends early, or is no regular file.
        FileNotFoundError: it is not there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size != of:
            raise ValueError(f"it has {status.st_size:,} bytes where {of:,} were committed")
        # Chunks are read in any order: the range at once, and nothing behind it.
        os.posix_fadvise(descriptor, offset, len(into), os.POSIX_FADV_RANDOM)
        while len(into):
            count = os.preadv(descriptor, [into], offset)
            if count == 0:
                raise ValueError("it ends before the range does")
            offset, into = offset + count, into[count:]
    finally:
        os.close(descriptor)


def read_pieces(path: Path, each: Callable[[bytes], object], piece: int = 2**22) -> int:
    """Hand a file's bytes to ``each``, piece by piece; returns how many there were."""
    total = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        while data := file.read(piece):
            each(data)
            total += len(data)
    return total


def walk(folder: Path) -> Iterator[Path]:
    """Regular files in a directory and below, sorted; links are not followed."""
    for name in list_names(folder):
        path = folder / name
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            yield from walk(path)
        elif stat.S_ISREG(status.st_mode):
            yield path


def clock(root: Path) -> float:
    """The time by the file system the store is on, which need not be ours, in seconds since 1970."""
    path, file = create_temporary(root)
    file.close()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink()


def age_and_size(path: Path) -> tuple[float, int]:
    """When a file was last changed, in seconds since 1970, and its size."""
    status = path.lstat()
    return status.st_mtime, status.st_size


def delete(path: Path) -> None:
    """Remove a file for good, durably."""
    path.unlink()
    sync_directory(path.parent)


def list_names(folder: Path) -> list[str]:
    """Names in a directory, sorted; none where it does not exist."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
