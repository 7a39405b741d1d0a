"""All input and output of the store, behind a few verbs, on a POSIX file system.

Each verb that changes something is durable when it returns: data is synced before it gets its name, and the directory
after. ``put_if_absent`` is the only way a name that others wait for comes into being; it uses link(2), which refuses to
replace where rename(2) would overwrite. A failed fsync is never tried again on the same file: the kernel may have
dropped the pages, so the caller starts over with a new file.

Nothing outside the store is touched: below its root no link is followed, and only regular files are opened. What the
operating system refuses (full, read-only, too many open files) is told from damage
(docs/adr/0011-no-links-inside-a-store.md).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

from softlabels.errors import StorageFailed, StoreBusy, StoreCorrupt
from softlabels.store.storage import exclusive_rename

TEMPORARY = "tmp"
"""Directory of files that have no name yet; what is left there after a crash is litter."""

AGAIN = "then run the same command again: what was committed is kept"
ADVICE = {
    errno.ENOSPC: f"free space or inodes (df, df -i), {AGAIN}",
    errno.EDQUOT: f"free space or ask for a larger quota, {AGAIN}",
    errno.EROFS: "make the file system writable, or name a directory elsewhere",
    errno.EMFILE: f"allow more open files (ulimit -n) or use fewer workers, {AGAIN}",
    errno.ENFILE: f"close other programs or raise fs.file-max, {AGAIN}",
    errno.ENOMEM: f"free memory, {AGAIN}",
    errno.EACCES: "see to the owner and mode of the directory",
    errno.EPERM: "see to the owner and mode of the directory",
    errno.ESTALE: f"mount the network file system anew, {AGAIN}",
}
"""What to do about errors that say nothing of the bytes."""
FAILED_WRITE = f"look for errors of the disk in the system's log, {AGAIN}"


@contextmanager
def told_apart(path: Path, *, writing: bool = False) -> Iterator[None]:
    """Turn what the operating system refuses into StorageFailed, and leave alone what may be damage or an answer.

    Args:
        path: what to name where the error names nothing.
        writing: any error at all is then a failure of the storage, but that a name exists or does not.
    """
    try:
        yield
    except (StorageFailed, FileNotFoundError, FileExistsError, NotADirectoryError):
        raise
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, FAILED_WRITE if writing else None)
        if advice is None:
            raise
        raise StorageFailed(f"{error.filename or path}: {error.strerror or error}; {advice}") from error


def create_temporary(root: Path) -> tuple[Path, BinaryIO]:
    """A new file that nobody else has, open for writing and reading.

    Raises:
        StorageFailed: full, read-only, ...; the same of every verb that changes something.
    """
    folder = root / TEMPORARY
    make_directory(root, folder)
    path = folder / uuid.uuid4().hex
    with told_apart(path, writing=True):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    return path, os.fdopen(descriptor, "w+b")


def sync_and_close(file: BinaryIO) -> None:
    """Make the bytes durable, then close; the file is closed also where that fails."""
    with told_apart(Path("a new file of the store"), writing=True), file:
        file.flush()
        os.fsync(file.fileno())


def publish(root: Path, temporary: Path, target: Path) -> None:
    """Give a synced temporary file its unique name, durably. The name must be one that nobody else uses."""
    make_directory(root, target.parent)
    with told_apart(target, writing=True):
        temporary.rename(target)
    sync_directory(target.parent)


def put_if_absent(root: Path, target: Path, data: bytes) -> bool:
    """Put ``data`` at ``target`` unless something is there; True where it is ours.

    Raises:
        StoreBusy: this file system cannot put-if-absent, and another process is writing.
    """
    temporary, file = create_temporary(root)
    try:
        with told_apart(target, writing=True):
            try:
                file.write(data)
            finally:
                sync_and_close(file)
        make_directory(root, target.parent)
        won = _link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    # Also when the race was lost: what the winner put there must be durable before anybody relies on it.
    sync_directory(target.parent)
    return won


def _link(temporary: Path, target: Path) -> bool:
    with told_apart(target, writing=True):
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
                raise
            return _without_links(temporary, target)
    return True


def _without_links(temporary: Path, target: Path) -> bool:
    """Put-if-absent where there are no hard links: a rename that refuses to replace, else as the only writer."""
    try:
        return exclusive_rename.rename(temporary, target)
    except NotImplementedError:
        return exclusive_rename.rename_alone(
            temporary, target, lambda: lock(temporary.parent.parent, "only-writer.lock")
        )


def make_directory(root: Path, path: Path) -> None:
    """Make a directory in the store (or its root) and its parents, durably; fine where it exists.

    Raises:
        StoreCorrupt: a link is in the way.
    """
    if path.is_dir():
        check_inside(root, path)
        return
    if path != root:
        make_directory(root, path.parent)
    elif not path.parent.is_dir():
        make_directory(path.parent, path.parent)
    with told_apart(path, writing=True):
        path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    with told_apart(path, writing=True):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def move(root: Path, source: Path, target: Path) -> None:
    """Rename within the store, durably on both sides."""
    check_inside(root, source.parent)
    make_directory(root, target.parent)
    with told_apart(target, writing=True):
        source.rename(target)
    sync_directory(target.parent)
    sync_directory(source.parent)


def lock(root: Path, name: str) -> BinaryIO:
    """Hold a lock of the store until the file that is returned is closed, or the process ends.

    Raises:
        StoreBusy: another process holds it.
        StoreCorrupt: a link or something else is in its place.
    """
    file = _open_lock(root, name)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreBusy(f"{root} is being written by another process; wait for it, or use another directory") from error
    return file


class UnitLocks:
    """What this process is working on, told to others on this machine by locks that end with it.

    A byte of one file stands for each piece of work. Where a file system has no such locks everything may be claimed:
    work may then be done twice, and is committed once.

    Args:
        root: of the store.
    """

    def __init__(self, root: Path) -> None:
        self._file = _open_lock(root, "claims.lock")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take(self, number: int) -> bool:
        """Claim a piece of work; False where another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            return error.errno not in {errno.EACCES, errno.EAGAIN}
        return True


def _open_lock(root: Path, name: str) -> BinaryIO:
    make_directory(root, root / TEMPORARY)
    path = root / TEMPORARY / name
    # Neither followed nor cut short: in a store that somebody else made, this name may lead anywhere.
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with told_apart(path, writing=True):
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
                raise
            what = f"{path} is a symbolic link, a directory or a socket, and no regular file"
            raise StoreCorrupt(f"{what}; delete it, and run the same command again") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreCorrupt(f"{path} is no regular file; delete it, and run the same command again")
    return os.fdopen(descriptor, "r+b", buffering=0)


def read(root: Path, path: Path, limit: int) -> bytes:
    """The whole of a file of at most ``limit`` bytes.

    Raises:
        ValueError: it is larger, or no regular file.
        FileNotFoundError: it is not there.
        StorageFailed: too many open files, not permitted, ...
        StoreCorrupt: it lies behind a link; the same of every verb that reads.
    """
    check_inside(root, path.parent)
    with _opened(path) as (descriptor, size):
        if size > limit:
            raise ValueError(f"{size:,} bytes, where at most {limit:,} are allowed")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            # Not the limit: reading makes room for all it is asked for, which a limit on memory refuses.
            return file.read(size)


def read_range(path: Path, offset: int, into: memoryview, *, of: int) -> None:
    """Fill ``into`` with the bytes from ``offset`` of a file that has ``of`` bytes in all.

    Call check_inside for its directory first: once for many ranges.

    Read, not mapped: what was hashed must be what is decoded, whatever happens to the file in between, and a mapped
    file that is cut short kills the process (docs/adr/0008-chunks-are-read-not-mapped.md).

    Raises:
        ValueError: it has another size, ends early, or is no regular file.
        FileNotFoundError: it is not there.
    """
    with _opened(path) as (descriptor, size):
        if size != of:
            raise ValueError(f"it has {size:,} bytes where {of:,} were committed")
        # Chunks are read in any order: the range at once, and nothing behind it.
        os.posix_fadvise(descriptor, offset, len(into), os.POSIX_FADV_RANDOM)
        while len(into):
            count = os.preadv(descriptor, [into], offset)
            if count == 0:
                raise ValueError("it ends before the range does")
            offset, into = offset + count, into[count:]


def read_pieces(root: Path, path: Path, each: Callable[[bytes], object], piece: int = 2**22) -> int:
    """Hand a file's bytes to ``each``, piece by piece; returns how many there were.

    Raises:
        ValueError: it is no regular file.
        FileNotFoundError: it is not there.
    """
    total = 0
    check_inside(root, path.parent)
    with _opened(path) as (descriptor, _):
        while data := os.read(descriptor, piece):
            each(data)
            total += len(data)
    return total


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """The descriptor and size of a regular file, open for reading."""
    with told_apart(path):
        try:
            # A FIFO would wait for its other end without O_NONBLOCK.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                raise ValueError("a link or a socket, and no regular file") from None
            raise
        try:
            yield descriptor, _check_regular(descriptor)
        finally:
            os.close(descriptor)


def _check_regular(descriptor: int) -> int:
    """The size of an open regular file; ValueError for anything else."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a directory, FIFO or device, and no regular file")
    return status.st_size


def check_inside(root: Path, folder: Path) -> None:
    """Raise StoreCorrupt where a directory of the store, or one above it, is a link: it may lead anywhere.

    The root itself may be one: its user has named it.
    """
    path, top = os.fspath(folder), len(os.fspath(root))  # as text: many reads pass here
    while len(path) > top:
        if os.path.islink(path):  # noqa: PTH114
            raise StoreCorrupt(
                f"{path} is a symbolic link, and a store's directories are its own; fetch the store again, or copy "
                "it with what its links name (cp -rL)"
            )
        path = os.path.dirname(path)  # noqa: PTH120


def walk(root: Path, folder: Path) -> Iterator[Path]:
    """Regular files in a directory and below, sorted; links are not followed."""
    for name in list_names(root, folder):
        path = folder / name
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            yield from walk(root, path)
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


def size(path: Path) -> int | None:
    """Bytes of a regular file; None where there is none."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def delete(root: Path, path: Path) -> None:
    """Remove a file for good, durably."""
    check_inside(root, path.parent)
    with told_apart(path, writing=True):
        path.unlink()
    sync_directory(path.parent)


def list_names(root: Path, folder: Path) -> list[str]:
    """Names in a directory, sorted; none where it does not exist."""
    check_inside(root, folder)
    try:
        with told_apart(folder):
            return sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
