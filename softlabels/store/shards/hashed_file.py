"""Writing a shard front to back: bytes are counted and hashed as they pass, as a whole and by range."""

from __future__ import annotations

from blake3 import blake3

from softlabels.errors import InvalidArgument
from softlabels.store.format.limits import MAX_SHARD_BYTES
from softlabels.store.format.record import Range
from softlabels.store.storage.storage import WritableFile


class HashedFile:
    """A file that hashes the bytes of a shard while it is written, as a whole and by range.

    Args:
        file: New, empty file.
    """

    closed = False  # pyarrow asks

    def __init__(self, file: WritableFile) -> None:
        self._file = file
        self._whole, self._range = blake3(), blake3()
        self._start = self.size = 0
        self._dropped = False

    def write(self, data: bytes) -> int:
        """Append bytes.

        Raises:
            InvalidArgument: The shard would become too large.
        """
        length = len(memoryview(data).cast("B"))
        if self._dropped:
            return length
        if self.size + length > MAX_SHARD_BYTES:
            raise InvalidArgument("a shard is at most 4 GiB; choose fewer rows a unit with unit_rows=")
        self._file.write(data)
        self._whole.update(data)
        self._range.update(data)
        self.size += length
        return length

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes that were written, from ``offset``."""
        return self._file.read(offset, size)

    def drop(self) -> None:
        """Take no more bytes: pyarrow writes a footer also for a file that was given up, which is closed by then."""
        self._dropped = True

    def flush(self) -> None:
        """Do nothing: no bytes are held back, and publishing syncs the file."""

    def cut(self, rows: int = 0) -> Range:
        """Return the range of everything since the last cut."""
        result = Range(self._start, self.size - self._start, self._range.hexdigest(), rows)
        self._start, self._range = self.size, blake3()
        return result

    @property
    def digest(self) -> str:
        """BLAKE3 of everything, hexadecimal."""
        return str(self._whole.hexdigest())
