"""Chunks of one store, read for a window at a time, or once and for all where the whole store fits into memory.

Chunks are read, verified and decoded by threads, which the decoder and the hash let run beside Python, each into its
slot of memory that is used again for later windows. A store that fits keeps its slots: from the second epoch on nothing
is read, and taking rows costs what it does from any array in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings import Column
from softlabels.loading.buffer_pool import BufferPool
from softlabels.loading.chunks.arena import SPARE, Arrays, ChunkArena, empty
from softlabels.store import Store

FREE = 3
"""Spaces that are kept for later windows."""

TASK_BYTES = 2**20
"""Threads read chunks in runs of about so many bytes: to hand over a small chunk takes as long as to read it."""


class ChunkCache:
    """Makes tables of one store's chunks. Safe to share between threads; pickled without what it holds.

    Args:
        store: read from.
        names: of the columns.
        memory: bytes that the decoded store may take to be kept whole; otherwise windows are, one after the other.

    Attributes:
        store: read from.
        schema: of the columns, and of those that count their entries.
        whole: whether the store is kept whole.
        copies: memory for rows that are taken.
    """

    def __init__(self, store: Store, names: list[str], memory: int) -> None:
        self.store = store
        columns = store.descriptor.columns()
        self._names = ragged.with_counts(names, columns)
        self.schema = {name: columns[name] for name in self._names}
        self._room = store.descriptor.chunk_rows
        self._memory = self._granted = memory
        self._starts = np.concatenate([[0], np.cumsum(store.chunk_rows())])
        self.copies = BufferPool()
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._free: list[ChunkArena] = []
        self._whole: ChunkArena | None = None
        # What ragged columns take is known when they have been read; compressed, they take less.
        least = max(self.store.chunks * self.chunk_bytes, self.store.bytes if self._ragged else 0)
        self.whole = least <= self._granted

    def __getstate__(self) -> dict[str, Any]:
        """Without what is held: another process reads what it needs itself."""
        held = ("_lock", "_thread", "_free", "_whole")
        return {name: value for name, value in self.__dict__.items() if name not in held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """With nothing held."""
        self.__dict__.update(state)
        self._clear()

    @property
    def _ragged(self) -> list[str]:
        return [name for name, column in self.schema.items() if column.per is not None]

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a full chunk's plain columns when decoded."""
        return sum(self._room * column.entry_bytes for column in self.schema.values() if column.per is None)

    def divide(self, processes: int) -> None:
        """Keep the store whole only where so many processes may do so with the memory of one."""
        if self._granted != self._memory // processes:
            self._granted = self._memory // processes
            self._clear()

    def read(self, chunks: NDArray[np.int64], pool: Executor) -> ChunkLease:
        """Begin to read chunks."""
        with self._lock:
            whole = self._space_for_all()
            space = self._spare(len(chunks)) if whole is None else whole
            slots = np.arange(len(chunks)) if whole is None else chunks
            awaited = self._begin(space, chunks, slots, pool)
        return ChunkLease(self, space, chunks, slots, awaited, kept=whole is not None)

    def chunks_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The chunks that hold ``rows``, ascending, and for each row the place of its chunk among them."""
        chunk_of = np.searchsorted(self._starts, rows, side="right") - 1
        used = np.zeros(len(self._starts) - 1, np.bool_)
        used[chunk_of] = True
        return np.flatnonzero(used), (np.cumsum(used) - 1)[chunk_of]

    def shifts(self, chunks: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """What is added to a row's number to find it in a space where ``chunks`` are in ``slots``."""
        shifts: NDArray[np.int64] = slots * self._room - self._starts[chunks]
        return shifts

    def load(self, space: ChunkArena, tasks: list[tuple[int, int]]) -> None:
        """Read chunks into slots.

        Raises:
            StoreCorrupt: other bytes than were committed.
        """
        for chunk, slot in tasks:
            space.put(slot, self.store.read_chunk(chunk, self._names, out=partial(self._place, space.slot(slot))))

    def load_here(self, space: ChunkArena, chunk: int, slot: int) -> None:
        """Read a chunk on this thread, unless another is at it: no slot is decoded twice at a time.

        Raises:
            StoreCorrupt: other bytes than were committed.
        """
        while not space.held[slot]:
            mine: Future[None] = Future()
            mine.set_running_or_notify_cancel()
            with self._lock:
                coming = space.coming.get(slot)
                if coming is None or coming.done():
                    space.coming[slot] = coming = mine
            if coming is mine:
                try:
                    self.load(space, [(chunk, slot)])
                finally:
                    mine.set_result(None)
            else:
                with suppress(CancelledError):
                    coming.exception()

    def _place(self, plain: Arrays, name: str, count: int) -> NDArray[Any]:
        """Where a column is decoded: its part of a slot; for a ragged one memory that this thread uses again."""
        if name in plain:
            return plain[name]
        kept: Arrays = self._thread.__dict__
        if len(kept.get(name, ())) < count:
            kept[name] = empty(self.schema[name], count + count // SPARE)
        return kept[name][:count]

    def give_back(self, space: ChunkArena) -> None:
        """Keep the memory of a window for later ones."""
        with self._lock:
            if len(self._free) < FREE:
                self._free.append(space)

    def _space_for_all(self) -> ChunkArena | None:
        """Where the whole store is kept; None where it takes more memory than was granted."""
        if self.whole and self._whole is None:
            self._whole = ChunkArena(self.schema, self.store.chunks, self._room, self._granted)
        if self._whole is not None and self._whole.bytes > self._granted:
            self._whole, self.whole = None, False
        return self._whole

    def _spare(self, slots: int) -> ChunkArena:
        space = self._free.pop() if self._free else None
        if space is None or space.slots < slots:
            space = ChunkArena(self.schema, slots, self._room)
        space.clear()
        return space

    def _begin(
        self, space: ChunkArena, chunks: NDArray[np.int64], slots: NDArray[np.int64], pool: Executor
    ) -> set[Future[None]]:
        """Let the pool read what is not there and not on its way; returns what there is to wait for."""
        awaited, tasks = set(), []
        for chunk, slot in zip(chunks.tolist(), slots.tolist(), strict=True):
            coming = space.coming.get(slot)
            if coming is not None and not coming.done():
                awaited.add(coming)
            elif not space.held[slot]:
                tasks.append((chunk, slot))
        run = max(1, int(TASK_BYTES / (self._room * self.store.bytes_per_row)))
        for at in range(0, len(tasks), run):
            some = tasks[at : at + run]
            future = pool.submit(self.load, space, some)
            awaited.add(future)
            space.coming.update((slot, future) for _, slot in some)
        return awaited


class ChunkLease:
    """Chunks that are being read; made by ChunkCache.

    Attributes:
        chunks: their numbers.
        schema: of their columns.
    """

    def __init__(
        self,
        made_by: ChunkCache,
        space: ChunkArena,
        chunks: NDArray[np.int64],
        slots: NDArray[np.int64],
        awaited: set[Future[None]],
        *,
        kept: bool,
    ) -> None:
        self.chunks = chunks
        self.schema = made_by.schema
        self._made_by = made_by
        self._space = space
        self._slots = slots
        self._awaited = awaited
        self._kept = kept

    def ready(self) -> None:
        """Wait until every chunk is there.

        Raises:
            StoreCorrupt: other bytes than were committed.
        """
        for future in self._awaited:
            with suppress(CancelledError):
                future.exception()
        self._awaited = set()
        # What failed, or was given up by another reader that has ended, is read here: an error comes from its chunk.
        for at in np.flatnonzero(~self._space.held[self._slots]).tolist():
            self._made_by.load_here(self._space, int(self.chunks[at]), int(self._slots[at]))

    def where(self, places: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the store's ``rows`` are, whose chunks stand at ``places`` of ``chunks``."""
        return rows + self._made_by.shifts(self.chunks, self._slots).take(places)

    def take(self, where: NDArray[np.int64]) -> Arrays:
        """Copies of rows, in their order, once all is ready."""
        return self._space.take(where, self._made_by.copies)

    def plain(self, name: str, where: NDArray[np.int64]) -> NDArray[Any]:
        """One plain column of rows, in their order, once all is ready."""
        return self._space.plain(name, where)

    def release(self) -> None:
        """Give the memory of a window back, once nothing writes to it any more."""
        if not self._kept:
            wait([future for future in self._awaited if not future.cancel()])
            self._made_by.give_back(self._space)


def empty_rows(schema: Mapping[str, Column]) -> Arrays:
    """No rows of the columns of ``schema``."""
    return {name: np.empty((0, *column.shape), column.dtype) for name, column in schema.items()}
