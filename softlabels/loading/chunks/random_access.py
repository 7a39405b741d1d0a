"""Random access to rows: the chunks that were read last stay decoded, as far as the granted memory goes.

A row whose chunk is held costs a copy; another one the reading, hashing and decoding of a chunk (about 1 MiB). Plain
columns are decoded into slots of one array, from which a batch is one gather a column however many chunks it is from;
where rows are ragged, chunks are arrays of their own, and a batch is put together chunk by chunk.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.loading.chunks.arena import Arrays
from softlabels.loading.chunks.cache import empty_rows
from softlabels.store import Store


class Chunks(Protocol):
    """Takes rows of a store in any order. Not to be shared between threads."""

    def take(self, rows: NDArray[np.int64]) -> Arrays:
        """Columns of rows, in their order.

        Raises:
            StoreCorrupt: bytes in the store are not what was committed.
        """


def chunks(store: Store, names: list[str], memory: int) -> Chunks:
    """What takes rows of a store.

    Args:
        store: read from.
        names: of the columns.
        memory: bytes of decoded chunks to hold; the last chunk read is held in any case.
    """
    schema = store.descriptor.columns()
    names = ragged.with_counts(names, schema)
    plain = bool(names) and all(schema[name].per is None for name in names)
    return PlainChunks(store, names, memory) if plain else RaggedChunks(store, names, memory)


class PlainChunks:
    """Chunks of plain columns in slots, those least lately used given up first. See Chunks and ``chunks``."""

    def __init__(self, store: Store, names: list[str], memory: int) -> None:
        schema = store.descriptor.columns()
        self._store = store
        self._names = names
        self._schema = {name: schema[name] for name in names}
        self._starts = np.concatenate([[0], np.cumsum(store.chunk_rows())])
        self._room = store.descriptor.chunk_rows
        size = self._room * sum(column.entry_bytes for column in self._schema.values())
        self._slots = min(max(1, memory // size), store.chunks)
        self._empty()

    def _empty(self) -> None:
        self._arrays: Arrays = {}
        self._slot_of = np.full(self._store.chunks, -1)
        self._chunk_in = np.full(self._slots, -1)
        self._used = np.zeros(self._slots, np.int64)
        self._turn = 0

    def __getstate__(self) -> dict[str, Any]:
        """Without what is held: another process reads what it needs itself."""
        held = ("_arrays", "_slot_of", "_chunk_in", "_used", "_turn")
        return {name: value for name, value in self.__dict__.items() if name not in held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """With nothing held."""
        self.__dict__.update(state)
        self._empty()

    def take(self, rows: NDArray[np.int64]) -> Arrays:
        """See Chunks.take.

        Raises:
            StoreCorrupt: bytes in the store are not what was committed.
        """
        chunk_of = np.searchsorted(self._starts, rows, side="right") - 1
        needed = np.unique(chunk_of)
        if len(needed) <= self._slots:
            where = self._where(rows, chunk_of, needed)
            return {name: array.take(where, axis=0) for name, array in self._arrays.items()}
        taken = {name: np.empty((len(rows), *column.shape), column.dtype) for name, column in self._schema.items()}
        for first in range(0, len(needed), self._slots):
            some = needed[first : first + self._slots]
            mine = np.flatnonzero((chunk_of >= some[0]) & (chunk_of <= some[-1]))
            where = self._where(rows[mine], chunk_of[mine], some)
            for name, array in self._arrays.items():
                taken[name][mine] = array.take(where, axis=0)
        return taken

    def _where(
        self, rows: NDArray[np.int64], chunk_of: NDArray[np.int64], needed: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Where rows are in the arrays, once the chunks they are of have been read."""
        if not self._arrays:
            count = self._slots * self._room
            # Slots take memory when they are first written to.
            self._arrays = {
                name: np.empty((count, *column.shape), np.dtype(column.dtype).newbyteorder("<"))
                for name, column in self._schema.items()
            }
        self._turn += 1
        slots = self._slot_of[needed]
        self._used[slots[slots >= 0]] = self._turn
        for chunk in needed[slots < 0]:
            self._read(int(chunk))
        shifts: NDArray[np.int64] = self._slot_of * self._room - self._starts[:-1]
        return rows + shifts[chunk_of]

    def _read(self, chunk: int) -> None:
        slot = int(self._used.argmin())
        if self._chunk_in[slot] >= 0:
            self._slot_of[self._chunk_in[slot]] = -1
        self._chunk_in[slot] = -1  # what fails half-way leaves an empty slot
        part = slice(slot * self._room, (slot + 1) * self._room)
        self._store.read_chunk(chunk, self._names, out=lambda name, _: self._arrays[name][part])
        self._chunk_in[slot], self._slot_of[chunk], self._used[slot] = chunk, slot, self._turn


class RaggedChunks:
    """Chunks whose rows have unlike numbers of entries. See Chunks and ``chunks``."""

    def __init__(self, store: Store, names: list[str], memory: int) -> None:
        self._store = store
        self._schema = store.descriptor.columns()
        self._names = names
        self._memory = memory
        self._starts = np.concatenate([[0], np.cumsum(store.chunk_rows())])
        self._held: OrderedDict[int, Arrays] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Without what is held: another process reads what it needs itself."""
        return self.__dict__ | {"_held": OrderedDict(), "_bytes": 0}

    def take(self, rows: NDArray[np.int64]) -> Arrays:
        """See Chunks.take.

        Raises:
            StoreCorrupt: bytes in the store are not what was committed.
        """
        chunk_of = np.searchsorted(self._starts, rows, side="right") - 1
        parts = []
        for chunk in np.unique(chunk_of):
            inside = rows[chunk_of == chunk] - self._starts[chunk]
            parts.append(ragged.take(self._chunk(int(chunk)), self._schema, inside))
        if not parts:
            return empty_rows({name: self._schema[name] for name in self._names})
        back = np.argsort(np.argsort(chunk_of, kind="stable"), kind="stable")
        return ragged.take(ragged.join(parts), self._schema, back)

    def _chunk(self, number: int) -> Arrays:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        found = self._store.read_chunk(number, self._names)
        self._held[number] = found
        self._bytes += _bytes(found)
        while self._bytes > self._memory and len(self._held) > 1:
            self._bytes -= _bytes(self._held.popitem(last=False)[1])
        return found


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
