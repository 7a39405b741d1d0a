"""Keys and sizes of image files that were read before on this machine, so that only files that changed are read again.

The cache is in the user's cache directory. A file counts as unchanged while its device, inode, size and both of its
times are the same. Files that changed in the last seconds are not entered, because a later change could leave their
times as they are. With a damaged cache everything is read again.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.keys import KEY_BYTES
from softlabels.store.storage.user_cache import cached_path, write_cached

RECORD = np.dtype([("mark", "S16"), ("key", "u1", KEY_BYTES), ("sides", "<i4", 2)])
"""Mark of the version of a file, key of its content, and height and width; -1 for an image that cannot be read."""
MIN_BYTES = 32 * 2**20
"""Bytes of files that are read anew without being entered: fewer are read as fast as the cache."""
MAX_RECORDS = 2**23
"""Files of one folder that are remembered, 320 MiB; above, only those of the last opening are."""
SETTLED_NS = 3 * 10**9
"""Age in nanoseconds from which a file is entered; times of files advance in steps of up to two seconds."""


class KnownImage(NamedTuple):
    """Result of reading an image file once.

    Attributes:
        key: Key of its content.
        size: Height and width; None if the image cannot be read.
    """

    key: bytes
    size: tuple[int, int] | None


class ImageCache:
    """Keys and sizes of the image files of one folder; see the module.

    Args:
        base: The folder.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> ImageCache(Path(tempfile.mkdtemp())).find(b"0" * 16) is None
        True
    """

    def __init__(self, base: Path) -> None:
        self._path = cached_path("images", base.resolve(), ".bin")
        with tempfile.TemporaryFile() as file:
            self._opened = os.fstat(file.fileno()).st_mtime_ns  # by the clock that gives files their times
        self._known = self._load()
        self._used = np.zeros(len(self._known), bool)
        self._new: dict[bytes, KnownImage] = {}
        self._new_bytes = 0

    def find(self, mark: bytes) -> KnownImage | None:
        """Return what is known of a file; None if it is new or has changed.

        Args:
            mark: Mark of the version of the file; see ``mark_of``.
        """
        place = int(np.searchsorted(self._known["mark"], np.bytes_(mark)))
        # numpy drops zero bytes at the end of a mark.
        if place == len(self._known) or self._known["mark"][place].ljust(len(mark), b"\0") != mark:
            return None
        self._used[place] = True
        height, width = self._known["sides"][place].tolist()
        return KnownImage(self._known["key"][place].tobytes(), None if height < 0 else (height, width))

    def takes(self, status: os.stat_result) -> bool:
        """Return True if a file had not changed for so long that its next change will show in its times.

        Args:
            status: Status of the file.
        """
        return self._opened - max(status.st_mtime_ns, status.st_ctime_ns) >= SETTLED_NS

    def add(self, mark: bytes, image: KnownImage, size: int) -> None:
        """Enter a file that was read.

        Args:
            mark: Mark of its version.
            image: Result of reading it.
            size: Its size in bytes.
        """
        self._new[mark] = image
        self._new_bytes += size

    def save(self) -> None:
        """Write the cache if enough was read anew, and if it can be written."""
        if not self._new or self._new_bytes < MIN_BYTES:
            return
        old = self._known if len(self._known) + len(self._new) <= MAX_RECORDS else self._known[self._used]
        records = np.empty(len(old) + len(self._new), RECORD)
        records[: len(old)] = old
        for place, (mark, image) in enumerate(self._new.items(), len(old)):
            records[place] = (mark, np.frombuffer(image.key, np.uint8), image.size or (-1, -1))
        body = np.sort(records, order="mark").tobytes()
        write_cached(self._path, blake3(body).digest() + body)

    def _load(self) -> NDArray[np.void]:
        """Return the records of the cache in the order of their marks."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_size <= (MAX_RECORDS + 1) * RECORD.itemsize:
                data = self._path.read_bytes()
                if data[:32] == blake3(data[32:]).digest() and len(data[32:]) % RECORD.itemsize == 0:
                    return np.frombuffer(data, RECORD, offset=32)
        return np.empty(0, RECORD)


def mark_of(status: os.stat_result) -> bytes:
    """Return the mark of the version of a file.

    Args:
        status: Status of the file.

    Example:
        >>> len(mark_of(os.stat(".")))
        16
    """
    fields = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return blake3(struct.pack("<5Q", *(field % 2**64 for field in fields))).digest(16)
