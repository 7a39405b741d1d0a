"""Memory for decoded chunks, from which rows are taken in any order, whole batches at a time.

Every chunk has a slot. Plain columns are decoded into it directly; entries of ragged columns are appended behind one
another, in the order in which chunks come, and where each row's begin is kept beside the column that counts them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from concurrent.futures import Future
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import ranges
from softlabels.encodings import Column
from softlabels.loading.buffer_pool import BufferPool

Arrays = dict[str, NDArray[Any]]

HUGE = 2**22
"""Bytes from which on NumPy asks for huge pages."""

SPARE = 8
"""Ragged columns get room for an eighth more than the first chunk suggests."""


class ChunkArena:
    """Memory for a number of chunks. Threads may put chunks into unlike slots and take rows of others meanwhile.

    Args:
        schema: of the columns; one that counts entries comes before those whose entries it counts.
        slots: chunks there is room for.
        room: rows of a slot.
        most: bytes to set aside for a ragged column before they are needed.

    Attributes:
        held: (slots,) whether a slot's chunk is there.
        coming: by slot, what reads its chunk or has tried to.
    """

    def __init__(self, schema: Mapping[str, Column], slots: int, room: int, most: int = 2**63) -> None:
        self.slots = slots
        self.held = np.zeros(slots, np.bool_)
        self.coming: dict[int, Future[None]] = {}
        self._schema = schema
        self._room = room
        self._most = most
        # Slots take memory when they are first written to.
        self._arrays = {
            name: empty(column, slots * room if column.per is None else 0) for name, column in schema.items()
        }
        counts = {column.per for column in schema.values() if column.per is not None}
        self._begins = {
            name: memory((len(self._arrays[name]),), np.dtype(np.int64)) for name in schema if name in counts
        }
        self._used = dict.fromkeys(self._begins, 0)
        self._lock = Lock()

    @property
    def bytes(self) -> int:
        """What it takes once all slots of plain columns have been written to, and what ragged ones take by now."""
        parts = [*self._arrays.items(), *self._begins.items()]
        return sum(
            self._used.get(self._schema[name].per or "", len(array)) * _entry_bytes(array) for name, array in parts
        )

    def clear(self) -> None:
        """Hold nothing, and keep the memory."""
        self.held[:] = False
        self.coming.clear()
        self._used = dict.fromkeys(self._begins, 0)

    def slot(self, number: int) -> Arrays:
        """The plain columns of a slot, (room, *shape) each, to decode into."""
        part = slice(number * self._room, (number + 1) * self._room)
        return {name: array[part] for name, array in self._arrays.items() if self._schema[name].per is None}

    def put(self, number: int, found: Mapping[str, NDArray[Any]]) -> None:
        """Take over a chunk whose plain columns have been decoded into their slot."""
        if not self._begins:
            self.held[number] = True
            return
        with self._lock:
            if not self.held[number]:
                self._append(number, found)
                self.held[number] = True

    def take(self, where: NDArray[np.int64], copies: BufferPool) -> Arrays:
        """Copies of rows, in their order.

        Args:
            where: slot * room + place within it.
            copies: memory for them.
        """
        taken = {}
        places = {"": where}
        for name, column in self._schema.items():
            at, array = places[column.per or ""], self._arrays[name]
            taken[name] = copies.empty(name, (len(at), *column.shape), array.dtype)
            # All places are there; without a mode, NumPy copies twice lest it leave half a result.
            np.take(array, at, axis=0, out=taken[name], mode="clip")
            if name in self._begins:
                lengths = taken[name].astype(np.int64)
                found = copies.empty(f"places of {name}", (int(lengths.sum()),), np.dtype(np.int64))
                places[name] = ranges(self._begins[name].take(at), lengths, found)
        return taken

    def plain(self, name: str, where: NDArray[np.int64]) -> NDArray[Any]:
        """One plain column of rows, in their order."""
        return self._arrays[name].take(where, axis=0)

    def _append(self, number: int, found: Mapping[str, NDArray[Any]]) -> None:
        begin = {"": number * self._room, **self._used}
        for name, column in self._schema.items():
            part, start = found[name], begin[column.per or ""]
            stop = start + len(part)
            if column.per is not None:
                self._arrays[name] = self._grown(self._arrays[name], start, stop)
                self._arrays[name][start:stop] = part
                self._used[column.per] = stop
            if name in self._begins:
                ends = np.cumsum(part, dtype=np.int64)
                self._begins[name] = self._grown(self._begins[name], start, stop)
                self._begins[name][start:stop] = begin[name] + ends - part

    def _grown(self, array: NDArray[Any], used: int, count: int) -> NDArray[Any]:
        """Room for ``count`` entries. Who takes rows meanwhile has the old array, with all the rows they ask for."""
        if len(array) >= count:
            return array
        room = count + count // SPARE
        if used == 0 and room * self.slots * _entry_bytes(array) <= self._most:
            room *= self.slots
        larger = memory((room, *array.shape[1:]), array.dtype)
        larger[:used] = array[:used]
        return larger


def _entry_bytes(array: NDArray[Any]) -> int:
    return array.dtype.itemsize * math.prod(array.shape[1:])


def empty(column: Column, count: int) -> NDArray[Any]:
    """Memory for so many entries of a column."""
    return memory((count, *column.shape), np.dtype(column.dtype).newbyteorder("<"))


def memory(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array whose memory is taken page by page as it is written to.

    NumPy asks the kernel for huge pages. Where a virtual machine has not touched its memory yet, 800 MiB of them take
    1.6 s to come, small ones 0.3 s; rows are taken from both alike.

    Raises:
        MemoryError: the kernel refuses.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < HUGE:
        return np.empty(shape, dtype)
    try:
        mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no {size:,} bytes of memory for decoded labels: {error}; grant less by memory=") from None
    return np.frombuffer(mapped, dtype).reshape(shape)
