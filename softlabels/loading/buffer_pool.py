"""Memory that is used again once nobody looks at it any more.

What a batch holds may be kept by whoever takes it, for as long as they like. Most do not, and fresh pages for every
block of batches take time (docs/adr/0016-a-store-that-fits-is-decoded-once.md).
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 12
"""Pieces of memory of one name that are kept."""
SPARE = 8
"""A new piece is an eighth larger than it needs to be, for later ones."""


class BufferPool:
    """Hands out arrays, and takes their memory back with the last view of it. Safe to share between threads."""

    def __init__(self) -> None:
        self._free: dict[str, list[NDArray[np.uint8]]] = {}

    def __reduce__(self) -> tuple[type[BufferPool], tuple[()]]:
        """Another process has memory of its own."""
        return BufferPool, ()

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of unknown values.

        Args:
            name: of those that are about as large.
            shape: of the array.
            dtype: of the array.
        """
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        free = self._free.setdefault(name, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < size:
            memory = np.empty(size + size // SPARE, np.uint8)
        # Every view refers to this array, for it does not own an array's memory but a buffer's.
        owner = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(owner, _give_back, free, memory).atexit = False
        return owner[:size].view(dtype).reshape(shape)


def _give_back(free: list[NDArray[np.uint8]], memory: NDArray[np.uint8]) -> None:
    if len(free) < MOST:
        free.append(memory)
