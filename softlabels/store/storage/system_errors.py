"""Errors of the operating system as errors of the storage, with advice."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from softlabels.errors import StorageFailed

RERUN = "then run the same command again: committed units stay in the store"
ADVICE = {
    errno.ENOSPC: f"free space or inodes (df, df -i), {RERUN}",
    errno.EDQUOT: f"free space or ask for a larger quota, {RERUN}",
    errno.EROFS: "make the file system writable, or copy the store to a directory elsewhere",
    errno.EMFILE: f"allow more open files (ulimit -n) or use fewer workers, {RERUN}",
    errno.ENFILE: f"close other programs or raise fs.file-max, {RERUN}",
    errno.ENOMEM: f"free memory, {RERUN}",
    errno.EACCES: "run as the owner of the store, or copy the store to a directory of your own",
    errno.EPERM: "run as the owner of the store, or copy the store to a directory of your own",
    errno.ESTALE: f"mount the network file system again, {RERUN}",
    errno.ENOENT: "the directory was removed or replaced while it was being written; run the same command again",
    errno.ENOTDIR: "a file is in the place of a directory; move it away and run the same command again",
}
"""Advice for errors that say nothing about the bytes of a file."""
ANSWERS = {errno.ENOENT, errno.ENOTDIR}
"""Errors that answer a reader: there is no such file."""
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors of a writer that concern the store, not one of its files."""
FAILED_WRITE = f"look for disk errors in the system's log, {RERUN}"


@contextmanager
def system_errors(path: str, *, writing: str | None = None) -> Iterator[None]:
    """Raise StorageFailed for errors that say nothing about a file's bytes; other errors pass.

    Args:
        path: Location of the file, for messages.
        writing: Location of the store if it is written to; every error is then a failure of the storage, except that a
            name is taken.
    """
    try:
        yield
    except (StorageFailed, FileExistsError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if writing is not None and error.errno in NOT_WRITABLE:
            raise StorageFailed(
                f"{writing}: the store cannot be written, got {reason}; {ADVICE[error.errno]}"
            ) from error
        advice = ADVICE.get(error.errno or 0, None if writing is None else FAILED_WRITE)
        if advice is None or (error.errno in ANSWERS and writing is None):
            raise
        raise StorageFailed(f"{path}: {reason}; {advice}") from error
