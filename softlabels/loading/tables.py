"""Decoded chunks side by side, from which rows are taken in any order.

Chunks are read, verified and decoded by threads, which the decoder and the hash let run beside Python, each into its
slot of arrays that are used again for later windows. Rows are copied out whole batches at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, Future, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import Column
from softlabels.encodings import rows as ragged
from softlabels.labels import ranges
from softlabels.store import Store

Arrays = dict[str, NDArray[Any]]

KEPT = 3
"""Sets of arrays that are kept for later windows."""

SPARE = 8
"""Ragged columns get room for an eighth more than the first window needs, for later ones."""

TASK_BYTES = 2**20
"""Threads read chunks in runs of about so many bytes: to hand over a small chunk takes as long as to read it."""


class Tables:
    """Makes tables of one store's chunks, in memory that is used again.

    Args:
        store: read from.
        names: of the columns.

    Attributes:
        room: rows of a slot.
        ragged: memory for ragged columns that no table uses.
    """

    def __init__(self, store: Store, names: list[str]) -> None:
        self.store = store
        self.names = ragged.with_counts(names, store.descriptor.columns())
        self.schema = {name: store.descriptor.columns()[name] for name in self.names}
        self.plain = [name for name, column in self.schema.items() if column.per is None]
        self.room = store.descriptor.chunk_rows
        self._free: list[Arrays] = []
        self.ragged: Arrays = {}
        sizes = store.chunk_rows()
        self.starts = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a full chunk's plain columns when decoded."""
        return sum(self.room * self.schema[name].entry_bytes for name in self.plain)

    def read(self, chunks: NDArray[np.int64], pool: Executor) -> Table:
        """Begin to read chunks."""
        arrays = self._free.pop() if self._free else {}
        if arrays and len(arrays[self.plain[0]]) < len(chunks) * self.room:
            arrays = {}
        if not arrays:
            arrays = {name: self.empty(name, len(chunks) * self.room) for name in self.plain}
        slots = [{name: arrays[name][slot * self.room : (slot + 1) * self.room] for name in self.plain}
                 for slot in range(len(chunks))]  # fmt: skip
        tasks = list(zip(chunks.tolist(), slots, strict=True))
        run = max(1, int(TASK_BYTES / (self.room * self.store.bytes_per_row)))
        futures = [pool.submit(self._read, tasks[at : at + run]) for at in range(0, len(tasks), run)]
        return Table(self, chunks, arrays, futures)

    def where(self, chunks: NDArray[np.int64], places: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in a table of ``chunks`` the store's ``rows`` are, whose chunks stand at ``places`` of them."""
        shifts: NDArray[np.int64] = np.arange(len(chunks)) * self.room - self.starts[chunks]
        return rows + shifts.take(places)

    def chunks_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The chunks that hold ``rows``, ascending, and for each row the place of its chunk among them."""
        chunk_of = np.searchsorted(self.starts, rows, side="right") - 1
        used = np.zeros(len(self.starts) - 1, np.bool_)
        used[chunk_of] = True
        return np.flatnonzero(used), (np.cumsum(used) - 1)[chunk_of]

    def give_back(self, arrays: Arrays, ragged: Arrays) -> None:
        """Keep arrays for later tables; ragged ones for the next, as one table at a time has all columns."""
        self.ragged.update(ragged)
        if len(self._free) < KEPT:
            self._free.append(arrays)

    def empty(self, name: str, count: int) -> NDArray[Any]:
        """Memory for so many entries of a column."""
        column = self.schema[name]
        return np.empty((count, *column.shape), np.dtype(column.dtype).newbyteorder("<"))

    def _read(self, tasks: list[tuple[int, Arrays]]) -> list[Arrays]:
        return [self._read_chunk(chunk, slot) for chunk, slot in tasks]

    def _read_chunk(self, chunk: int, slot: Arrays) -> Arrays:
        found = self.store.read_chunk(chunk, self.names, out=slot)
        # Behind the rows of a chunk that is not full, whatever counts entries must count none.
        for name in self.plain if len(self.plain) < len(self.names) else ():
            slot[name][len(found[name]) :] = 0
        return {name: array for name, array in found.items() if name not in slot}


class Table:
    """Chunks that are being read; made by Tables."""

    def __init__(
        self, made_by: Tables, chunks: NDArray[np.int64], arrays: Arrays, futures: list[Future[list[Arrays]]]
    ) -> None:
        self.chunks = chunks
        self.schema = made_by.schema
        self._made_by = made_by
        self._arrays = arrays
        self._futures = futures
        self._columns: Arrays | None = None
        self._ragged: Arrays = {}
        self._bounds: ragged.Bounds | None = None

    def columns(self) -> Arrays:
        """All columns, once every chunk is there; plain ones have a slot of chunk_rows rows for each chunk.

        Raises:
            StoreCorrupt: other bytes than were committed.
        """
        if self._columns is None:
            parts = [part for future in self._futures for part in future.result()]
            self._futures = []  # and with them the ragged columns chunk by chunk
            joined = {name: self._joined(name, [part[name] for part in parts]) for name in parts[0]} if parts else {}
            rows = len(self.chunks) * self._made_by.room  # the memory may have held a larger window before
            self._columns = {name: self._arrays[name][:rows] for name in self._made_by.plain} | joined
        return self._columns

    def take(self, where: NDArray[np.int64]) -> Arrays:
        """Copies of rows, in their order; see Tables.where."""
        columns = self.columns()
        if self._bounds is None:
            self._bounds = ragged.bounds(columns, self.schema)
        places = {per: ranges(begin[where], begin[where + 1] - begin[where]) for per, begin in self._bounds.items()}
        return {
            name: columns[name].take(places.get(column.per or "", where), axis=0)
            for name, column in self.schema.items()
        }

    def _joined(self, name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
        """Entries of a ragged column one after the other, in memory that grows where it must."""
        count = sum(map(len, parts))
        memory = self._made_by.ragged.pop(name, None)
        if memory is None or len(memory) < count:
            memory = self._made_by.empty(name, count + count // SPARE)
        self._ragged[name] = memory
        return np.concatenate(parts, out=memory[:count])

    def release(self) -> None:
        """Give the memory back, once nothing writes to it any more."""
        wait([future for future in self._futures if not future.cancel()])
        self._made_by.give_back(self._arrays, self._ragged)


def empty_rows(schema: Mapping[str, Column]) -> Arrays:
    """No rows of the columns of ``schema``."""
    return {name: np.empty((0, *column.shape), column.dtype) for name, column in schema.items()}
