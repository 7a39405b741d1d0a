"""A cache of verified byte ranges on the local disk, shared by processes and bounded in size.

A file is named by the BLAKE3 of its bytes and is verified whenever it is read, so a damaged or foreign file is deleted
and never used. Files are written aside and renamed. The least recently used ones are deleted when the cache grows above
its limit, 16 GiB by default; ``SOFTLABELS_CACHE_BYTES`` sets another, and 0 turns the cache off.

Ranks and loader workers of one machine need the same ranges at about the same time. Whoever fetches one holds its turn,
a lock beside the file, and the others wait for it. A turn is advice: after some seconds, and where there are no locks,
a range is fetched by several.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from softlabels.errors import InvalidArgument
from softlabels.store.storage.user_cache import cache_directory, write_cached

DEFAULT_BYTES = 16 * 2**30
KEEP_SHARE = 0.8
"""Share of the limit that remains after files were deleted."""
SCANS = 64
"""The directory is scanned whenever a 64th of the limit was written; larger ranges are not cached."""

MAX_WAIT = 20.0
"""Seconds to wait for a range that another thread or process fetches."""
FIRST_DELAY, MAX_DELAY = 0.005, 0.1
"""Seconds between two tries to take a turn."""


class RangeCache:
    """Verified ranges in a directory.

    Args:
        directory: Directory of the cache; made when the first file is written.
        max_bytes: Bytes it may take; 0: nothing is cached.
    """

    def __init__(self, directory: Path, max_bytes: int = DEFAULT_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._written = max_bytes  # so that the first write looks at what is there

    @classmethod
    def of_user(cls) -> RangeCache:
        """Return the cache of this user.

        Raises:
            InvalidArgument: SOFTLABELS_CACHE_BYTES is not a whole number.
        """
        text = os.environ.get("SOFTLABELS_CACHE_BYTES", str(DEFAULT_BYTES))
        if not text.isdecimal():
            raise InvalidArgument(f"SOFTLABELS_CACHE_BYTES: not a number of bytes, got {text!r}; expected 0 or more")
        return cls(cache_directory() / "ranges", int(text))

    def read(self, digest: str, into: memoryview) -> bool:
        """Fill a buffer from the cache; returns False if the bytes are not there.

        Args:
            digest: BLAKE3 of the bytes, hexadecimal.
            into: Buffer of their size.
        """
        path = self._path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            status = os.fstat(descriptor)
            is_expected = stat.S_ISREG(status.st_mode) and status.st_size == len(into)
            if is_expected and os.preadv(descriptor, [into], 0) == len(into) and blake3(into).hexdigest() == digest:
                with suppress(OSError):
                    os.utime(descriptor)  # used now
                return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        with suppress(OSError):
            path.unlink()
        return False

    def write(self, digest: str, data: memoryview) -> None:
        """Keep bytes; does nothing if the disk refuses.

        Args:
            digest: Their BLAKE3, hexadecimal.
            data: The bytes.
        """
        if len(data) > self._max_bytes // SCANS:
            return
        if not write_cached(self._path(digest), data):
            return
        self._written += len(data)
        if self._written > self._max_bytes // SCANS:
            self._written = 0
            self._shrink()

    @contextmanager
    def turn(self, digest: str, size: int) -> Iterator[None]:
        """Hold the turn to fetch a range: others that need it wait, and then find it in the cache.

        Args:
            digest: BLAKE3 of the range, hexadecimal.
            size: Its size in bytes; for one that is not cached, nobody waits.
        """
        path = self._path(digest).with_name(f".{digest}.lock")
        descriptor = self._lock(path) if size <= self._max_bytes // SCANS else None
        try:
            yield
        finally:
            if descriptor is not None:
                with suppress(OSError):
                    path.unlink()
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may hold the descriptor, too
                os.close(descriptor)

    def _lock(self, path: Path) -> int | None:
        """Return the descriptor of a lock file, once it is locked; None if that takes too long or is impossible."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError:
            return None
        end, delay = time.monotonic() + MAX_WAIT, FIRST_DELAY
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    break
                time.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
            except OSError:
                break
            else:
                return descriptor
        os.close(descriptor)
        return None

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest

    def _shrink(self) -> None:
        """Delete the least recently used files if there are more bytes than the limit."""
        files = []
        for path in self._directory.glob("??/*"):
            with suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= self._max_bytes:
            return
        for _, size, path in sorted(files):
            with suppress(OSError):
                path.unlink()
            total -= size
            if total <= self._max_bytes * KEEP_SHARE:
                return
