"""Memory for decoded chunks, from which rows are gathered in any order.

Every chunk occupies a slot of ``chunk_rows`` rows. Plain columns are decoded straight into their slot. A ragged column
has a varying number of entries per row, so its entries lie in a heap: each chunk owns one extent of it, and the column
that counts the entries has an array beside it that says where the entries of each row begin.

    slot of row r        counts[slot]         starts[slot]          heap
    +---------------+    +-----------+        +-----------+         +-----------------------+
    | r0 r1 r2 ...  |    | 2  0  3   |  --->  | 7  9  9   |  ---->  | ...  e7 e8 e9 e10 e11 |
    +---------------+    +-----------+        +-----------+         +-----------------------+

Columns may nest: positions per row, entries per position. The counts of the inner level then lie in the heap of the
outer one, and so do their starts.

A gather of n rows is one ``numpy.take`` per column, whichever chunks the rows are from.
"""

from __future__ import annotations

import bisect
import math
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Column, entry_counts, ranges
from softlabels.loading.buffer_pool import BufferPool

Arrays = dict[str, NDArray[Any]]

HUGE_PAGE_BYTES = 2**22
"""Size from which NumPy requests huge pages."""
SPARE = 8
"""A heap that grows gets an eighth more than it needs."""
START_BYTES = 8
"""Bytes of one entry of the arrays that say where entries begin."""


class Heap:
    """A first-fit allocator of extents; it counts entries and holds no memory.

    Attributes:
        end: Number of entries below which all extents lie.
        used: Number of entries in extents; the others below ``end`` are gaps.

    Example:
        >>> heap = Heap()
        >>> heap.allocate(4), heap.allocate(2)
        (0, 4)
        >>> heap.release(0, 4)
        >>> heap.allocate(3), heap.end
        (0, 6)
    """

    def __init__(self) -> None:
        self.end = self.used = 0
        self._gaps: list[tuple[int, int]] = []

    def allocate(self, count: int) -> int:
        """Return the first entry of a new extent of ``count`` entries: in the first gap that fits, or at the end."""
        self.used += count
        for index, (start, stop) in enumerate(self._gaps):
            if stop - start >= count:
                self._gaps[index : index + 1] = [(start + count, stop)] if stop - start > count else []
                return start
        start, self.end = self.end, self.end + count
        return start

    def release(self, start: int, count: int) -> None:
        """Return an extent; adjacent gaps merge, and a gap at the end lowers it."""
        if count == 0:
            return
        self.used -= count
        stop = start + count
        index = bisect.bisect_left(self._gaps, (start, stop))
        if index < len(self._gaps) and self._gaps[index][0] == stop:
            stop = self._gaps.pop(index)[1]
        if index and self._gaps[index - 1][1] == start:
            index -= 1
            start = self._gaps.pop(index)[0]
        if stop == self.end:
            self.end = start
        else:
            self._gaps.insert(index, (start, stop))


class ChunkArena:
    """Memory for a number of chunks.

    Rows of slots that are filled may be gathered while other slots are filled. Calls that fill or release slots must
    not overlap.

    Args:
        schema: Columns by name. A column that counts entries comes before the columns whose entries it counts.
        slots: Number of chunks that fit by their plain columns.
        chunk_rows: Rows of a slot.
        memory: Bytes that may be reserved for a ragged column before they are needed.

    Attributes:
        slots: Number of slots.
    """

    def __init__(self, schema: Mapping[str, Column], slots: int, chunk_rows: int, memory: int) -> None:
        self.slots = slots
        self._schema = schema
        self._chunk_rows = chunk_rows
        self._memory = memory
        plain = [name for name, column in schema.items() if column.per is None]
        counts = {column.per for column in schema.values() if column.per is not None}
        # Pages are taken as they are written to, so unused slots take none.
        self._arrays = {name: empty(column, slots * chunk_rows if column.per is None else 0)
                        for name, column in schema.items()}  # fmt: skip
        self._starts = {name: allocate((len(self._arrays[name]),), np.dtype(np.int64))
                        for name in schema if name in counts}  # fmt: skip
        self._heaps = {name: Heap() for name in self._starts}
        self._extents: dict[int, dict[str, tuple[int, int]]] = {}
        self._slot_bytes = chunk_rows * sum(
            schema[name].entry_bytes + START_BYTES * (name in counts) for name in plain
        )  # fmt: skip
        self._used: set[int] = set()

    @property
    def bytes(self) -> int:
        """Bytes of used slots, and of heaps up to their ends."""
        return self._bytes({name: heap.end for name, heap in self._heaps.items()})

    @property
    def bytes_in_use(self) -> int:
        """Bytes without the gaps in the heaps."""
        return self._bytes({name: heap.used for name, heap in self._heaps.items()})

    def _bytes(self, entries: Mapping[str, int]) -> int:
        total = len(self._used) * self._slot_bytes
        for name, column in self._schema.items():
            if column.per is not None:
                total += entries[column.per] * (column.entry_bytes + START_BYTES * (name in self._starts))
        return total

    def buffers(self, slot: int) -> Arrays:
        """Return the plain columns of a slot, (chunk_rows, *shape) each, to decode into."""
        self._used.add(slot)
        rows = slice(slot * self._chunk_rows, (slot + 1) * self._chunk_rows)
        return {name: array[rows] for name, array in self._arrays.items() if self._schema[name].per is None}

    def reserve(self, slot: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Reserve extents of the heaps for the ragged columns of a chunk."""
        self._used.add(slot)
        extents = self._extents.setdefault(slot, {})
        for name, column in self._schema.items():
            if column.per is not None and column.per not in extents:
                extents[column.per] = self._heaps[column.per].allocate(len(columns[name])), len(columns[name])

    def fill(self, slot: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Store the ragged columns of a chunk, for which extents were reserved."""
        for name, column in self._schema.items():
            values = columns[name]
            start = slot * self._chunk_rows if column.per is None else self._extents[slot][column.per][0]
            stop = start + len(values)
            if column.per is not None:
                self._arrays[name] = self._grown(self._arrays[name], stop)
                self._arrays[name][start:stop] = values
            if name in self._starts:
                self._starts[name] = self._grown(self._starts[name], stop)
                # Entries of row i begin behind those of the rows before it, within the extent of this chunk.
                counts = entry_counts(values)
                ends = np.cumsum(counts, dtype=np.int64)
                self._starts[name][start:stop] = self._extents[slot][name][0] + ends - counts

    def release(self, slot: int) -> None:
        """Free a slot, and return its entries to the heaps."""
        self._used.discard(slot)
        for name, extent in self._extents.pop(slot, {}).items():
            self._heaps[name].release(*extent)

    def gather(self, places: NDArray[np.int64], pool: BufferPool) -> Arrays:
        """Return copies of rows, in their order.

        Args:
            places: Place of each row, ``slot * chunk_rows + row within the chunk``, (n,).
            pool: Pool of the memory for the copies.
        """
        gathered = {}
        indices = {"": places}
        for name, column in self._schema.items():
            index, array = indices[column.per or ""], self._arrays[name]
            gathered[name] = pool.empty(name, (len(index), *column.shape), array.dtype)
            # All indices are valid. Without a mode, NumPy copies twice lest it leave half a result.
            np.take(array, index, axis=0, out=gathered[name], mode="clip")
            if name in self._starts:
                lengths = entry_counts(gathered[name]).astype(np.int64)
                out = pool.empty(f"indices of {name}", (int(lengths.sum()),), np.int64)
                indices[name] = ranges(self._starts[name].take(index), lengths, out)
        return gathered

    def column(self, name: str, places: NDArray[np.int64]) -> NDArray[Any]:
        """Return one plain column of rows, in their order."""
        return self._arrays[name].take(places, axis=0)

    def _grown(self, array: NDArray[Any], count: int) -> NDArray[Any]:
        """Return ``array``, or a larger copy, with space for ``count`` entries.

        Threads that gather from the old array meanwhile find all their rows there, because entries never move.
        """
        if len(array) >= count:
            return array
        size = count + count // SPARE
        # The first chunk predicts the others, so that most heaps grow once. Pages that are not used cost nothing.
        if len(array) == 0 and size * self.slots * _bytes_per_entry(array) <= self._memory:
            size *= self.slots
        larger = allocate((size, *array.shape[1:]), array.dtype)
        larger[: len(array)] = array
        return larger


def _bytes_per_entry(array: NDArray[Any]) -> int:
    return array.dtype.itemsize * math.prod(array.shape[1:])


def empty(column: Column, count: int) -> NDArray[Any]:
    """Return memory for ``count`` entries of a column, in little-endian byte order."""
    return allocate((count, *column.shape), np.dtype(column.dtype).newbyteorder("<"))


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array whose pages are taken one by one as they are written to.

    NumPy requests huge pages for large arrays. On a virtual machine whose host has not provided the memory yet, 800 MiB
    of huge pages take 1.6 s and small pages 0.3 s, and gathers are equally fast from both.

    Raises:
        MemoryError: The system refuses the memory.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < HUGE_PAGE_BYTES:
        return np.empty(shape, dtype)
    try:
        mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"decoded labels: no memory, got {error} for {size:,} bytes. Use a smaller memory=") from None
    return np.frombuffer(mapped, dtype).reshape(shape)
