"""Arrays that are written once and then read at random: in memory if small, else in an unlinked temporary file.

Data goes to the file by ``write``, not through a memory map, so that a full disk is an error and not a SIGBUS. The
file has no name, so nobody else can truncate it, and the system frees it when the process ends.
"""

from __future__ import annotations

import math
import tempfile
import weakref

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import StorageFailed

MAX_IN_MEMORY = 4 * 2**20
"""Bytes of an array that stays in memory."""


class ArrayBuilder:
    """An array that is filled from its first row to its last.

    Args:
        rows: Number of rows.
        shape: Shape of one row.
        dtype: Dtype of the array.
        max_in_memory: Bytes up to which the array stays in memory.

    Example:
        >>> builder = ArrayBuilder(3, (2,), np.dtype(np.int8))
        >>> builder.append(np.array([[1, 2]], np.int8))
        >>> builder.append(np.array([[3, 4], [5, 6]], np.int8))
        >>> builder.finish().tolist()
        [[1, 2], [3, 4], [5, 6]]
    """

    def __init__(
        self, rows: int, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, max_in_memory: int = MAX_IN_MEMORY
    ) -> None:
        self._shape = (rows, *shape)
        self._dtype = dtype
        self._filled = 0
        self._array: NDArray[np.generic] | None = None
        if math.prod(self._shape) * dtype.itemsize <= max_in_memory:
            self._array = np.empty(self._shape, dtype)
        else:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed with the builder; the map stays
            weakref.finalize(self, self._file.close)

    def append(self, rows: NDArray[np.generic]) -> None:
        """Add the next rows.

        Raises:
            StorageFailed: The temporary file cannot be written, for example because the disk is full.
        """
        if self._array is not None:
            self._array[self._filled : self._filled + len(rows)] = rows
        else:
            view = np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8).data
            try:
                while view:
                    view = view[self._file.write(view) :]
            except OSError as error:
                raise StorageFailed(
                    f"temporary file in {tempfile.gettempdir()}: cannot be written: {error}. "
                    "Free some space, or set TMPDIR to another directory"
                ) from error
        self._filled += len(rows)

    def finish(self) -> NDArray[np.generic]:
        """Return the array once all rows are there."""
        if self._array is not None:
            return self._array
        return np.memmap(self._file, self._dtype, "r", shape=self._shape)
