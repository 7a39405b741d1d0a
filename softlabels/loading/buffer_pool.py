"""Buffers that are reused once no array refers to them.

Copies of rows and orders of windows are made anew for every few batches, and fresh pages cost page faults.
``benchmarks/buffers.py`` measures the gain. A batch may be held for as long as its owner likes: its buffer is then not
reused.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAX_BUFFERS = 12
"""Buffers of one name in the pool."""
SPARE = 8
"""A new buffer is an eighth larger than requested, so that slightly larger requests fit later."""
IDLE = 3
"""References to a buffer that no array refers to: the list, the loop variable and the argument of getrefcount."""


class BufferPool:
    """A pool of buffers by name. Threads may share it.

    Example:
        >>> pool = BufferPool()
        >>> first = pool.empty("ids", (4, 2), "uint16")
        >>> address = first.ctypes.data
        >>> del first
        >>> pool.empty("ids", (3, 2), "uint16").ctypes.data == address
        True
    """

    def __init__(self) -> None:
        self._buffers: dict[str, list[NDArray[np.uint8]]] = {}

    def __reduce__(self) -> tuple[type[BufferPool], tuple[()]]:
        """Unpickle as an empty pool: buffers belong to one process."""
        return BufferPool, ()

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array of undefined values over a buffer that nothing else refers to.

        Args:
            name: Name of the buffers to choose from. Requests of one name should be of similar size.
            shape: Shape of the array.
            dtype: Dtype of the array.
        """
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        buffers = self._buffers.setdefault(name, [])
        for buffer in buffers:
            # Every view, and every tensor over one, holds a reference to the array that owns the memory. Two threads
            # that look at one buffer at a time both count the other's loop variable, and both pass over it.
            if sys.getrefcount(buffer) == IDLE and len(buffer) >= size:
                return buffer[:size].view(kind).reshape(shape)
        buffer = np.empty(size + size // SPARE, np.uint8)
        # Buffers in use are kept alive by their arrays; the pool may drop the oldest.
        if len(buffers) >= MAX_BUFFERS:
            del buffers[0]
        buffers.append(buffer)
        return buffer[:size].view(kind).reshape(shape)
