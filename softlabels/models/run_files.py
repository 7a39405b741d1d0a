"""Files of a run directory.

A file is replaced in one step: it is written beside its name, synced and renamed, so a reader or a power cut sees the
old bytes or the new ones. Files are read as untrusted input: only regular files up to a limit, and no links.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from softlabels.errors import RunCorrupt, StorageFailed, StoreBusy, StoreConflict, StoreCorrupt
from softlabels.store.storage.posix import PosixStorage

AGAIN = "Then run the same command again: it resumes from the last checkpoint"
ADVICE = {
    errno.ENOSPC: "Free space or inodes (df, df -i)",
    errno.EDQUOT: "Free space, or ask for a larger quota",
    errno.EROFS: "Make the file system writable, or name another directory with out=",
    errno.EMFILE: "Allow more open files (ulimit -n)",
    errno.EACCES: "Change the owner or mode of the directory, or name another one with out=",
    errno.EPERM: "Change the owner or mode of the directory, or name another one with out=",
}
"""Advice on errors of the operating system."""


def temporary_name(name: str) -> str:
    """Return the name a file has while it is written.

    Args:
        name: Final name of the file.
    """
    return f".{name}.tmp"


def make_folder(folder: Path) -> None:
    """Create a run directory and its parents durably, if they do not exist.

    Args:
        folder: Run directory.

    Raises:
        StoreConflict: A file or a dangling link is in the way.
        StorageFailed: The directory cannot be created.
    """
    try:
        if not folder.is_dir():
            PosixStorage(folder).prepare()
    except (StoreConflict, NotADirectoryError) as error:
        raise StoreConflict(
            f"{folder}: a file or link is in the way, got no directory; expected one. Name another one with out="
        ) from error
    except (StorageFailed, OSError) as error:
        raise _storage_failed(folder, error) from error


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """Return the bytes of a file.

    Args:
        folder: Run directory.
        name: Name of the file.
        limit: Greatest size in bytes.

    Raises:
        FileNotFoundError: There is no such file.
        RunCorrupt: The file is larger than the limit, a link, or not a regular file.
        StorageFailed: The operating system refused.
    """
    path = folder / name
    try:
        return PosixStorage(folder).read(name, limit)
    except (ValueError, StoreCorrupt, NotADirectoryError) as error:
        raise RunCorrupt(
            f"{path}: cannot be read, got {error}; expected what training wrote. Copy the run again"
        ) from None


def write_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file in one durable step; after an error the old file is there and the temporary one is not.

    Args:
        folder: Run directory.
        name: Name of the file.
        data: Its bytes.

    Raises:
        StorageFailed: The disk is full, the directory was removed, or the operating system refused otherwise.
    """
    path, temporary = folder / name, folder / temporary_name(name)
    try:
        with storage_errors(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            PosixStorage(folder).settle("")
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def append_line(folder: Path, name: str, line: str) -> None:
    """Append a line to a file; not durable until the next checkpoint.

    Args:
        folder: Run directory.
        name: Name of the file.
        line: Text without a line break.

    Raises:
        StorageFailed: The line cannot be written.
    """
    path = folder / name
    with storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def sync_file(folder: Path, name: str) -> None:
    """Make the content of a file durable.

    Args:
        folder: Run directory.
        name: Name of the file.

    Raises:
        StorageFailed: The operating system refused.
    """
    with storage_errors(folder / name), (folder / name).open("rb") as file:
        os.fsync(file.fileno())


def delete_file(folder: Path, name: str) -> None:
    """Delete a file if it exists.

    Args:
        folder: Run directory.
        name: Name of the file.

    Raises:
        StorageFailed: The operating system refused.
    """
    with storage_errors(folder / name):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory, so that no other process trains into it.

    The lock is on the directory itself, ends with the process, and leaves no file behind. Where a file system has no
    locks on directories, nothing is locked.

    Args:
        folder: Run directory.

    Raises:
        StoreBusy: Another process holds the lock.
        StorageFailed: The directory cannot be opened.
    """
    with storage_errors(folder / "."):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreBusy(
                f"{folder}: another process trains into this directory; wait for it, or name another one with out="
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into StorageFailed.

    Args:
        path: File that is written.

    Raises:
        StorageFailed: The operating system refused.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageFailed(
            f"{path.parent}: the run directory was removed while it was in use; expected it to stay. "
            "Run the same command again to train from the start"
        ) from error
    except (StorageFailed, OSError) as error:
        raise _storage_failed(path, error) from error


def _storage_failed(path: Path, error: OSError) -> StorageFailed:
    cause = error.__cause__ if isinstance(error, StorageFailed) else error
    number = cause.errno if isinstance(cause, OSError) else None
    advice = ADVICE.get(number or 0, "Look for disk errors in the system's log")
    reason = os.strerror(number) if number else str(error)
    return StorageFailed(
        f"{path}: cannot be written, got {reason!r}; expected a writable disk with space. {advice}. {AGAIN}"
    )
