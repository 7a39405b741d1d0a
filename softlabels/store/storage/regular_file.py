"""Reading of small documents outside of a store: regular files of bounded size, through links."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: The file, or a link to it.
        limit: Greatest size in bytes.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The operating system refused.
        ValueError: The file is larger, or it is a directory, FIFO, socket or device.

    Example:
        >>> read_regular(Path("/dev/zero"), 100)
        Traceback (most recent call last):
        ...
        ValueError: a directory, FIFO, socket or device, and no regular file
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a directory, FIFO, socket or device, and no regular file")
    # Without O_NONBLOCK a FIFO that took the file's place since would wait for its other end.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return data
