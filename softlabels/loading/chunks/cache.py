"""The decoded chunks of one store, bounded in memory; the least recently used ones are evicted.

Readers lease chunks. A lease pins its chunks: they are read if they are not in the cache, and stay until the lease is
released. Chunks are read, verified and decoded by threads, each into its own slot of the arena, while Python goes on. A
store that fits into memory is thus decoded once, and from the second epoch on a gather costs what it does from any
array in memory.

    lease(chunks) -> ready() -> gather(rows) ... -> release()
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.columns import Column
from softlabels.errors import InvalidArgument
from softlabels.loading.buffer_pool import BufferPool
from softlabels.loading.chunks.arena import Arrays, ChunkArena
from softlabels.loading.chunks.loads import ChunkLoads
from softlabels.loading.chunks.slots import ChunkSlots, Indices, NoRoom
from softlabels.store import Store


class ChunkCache:
    """A cache of decoded chunks. Threads may share it; another process starts with an empty one.

    Args:
        store: Store to read from.
        names: Names of the columns to read.
        memory: Bytes of decoded chunks to hold. One chunk is held in any case.
        min_chunks: Chunks of one lease that must fit by their plain columns, however little memory there is.

    Attributes:
        store: Store to read from.
        schema: Columns by name, with those that count the entries of others.
    """

    def __init__(self, store: Store, names: list[str], memory: int, *, min_chunks: int = 1) -> None:
        self.store = store
        columns = store.descriptor.columns()
        self._names = ragged.with_counts(names, columns)
        self.schema: dict[str, Column] = {name: columns[name] for name in self._names}
        self._memory = self._granted = memory
        self._min_chunks = min_chunks
        self._chunk_rows = store.descriptor.chunk_rows
        self._first_rows = np.concatenate([[0], np.cumsum(store.chunk_rows())])
        self._is_ragged = any(column.per is not None for column in self.schema.values())
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pool = BufferPool()
        # Compressed, ragged columns take less than decoded. What they take is known when they have been read.
        chunk_bytes = max(self.chunk_bytes, self.store.bytes // self.store.chunks if self._is_ragged else 0)
        count = min(max(self._min_chunks, self._granted // max(1, chunk_bytes), 1), self.store.chunks)
        arena = ChunkArena(self.schema, count, self._chunk_rows, self._granted)
        self._slots = ChunkSlots(arena, self._first_rows, self._chunk_rows, self._granted, is_ragged=self._is_ragged)
        self._loads = ChunkLoads(self.store, self.schema, self._slots, self._lock)
        self._released: SimpleQueue[Indices] = SimpleQueue()
        self._second: ChunkCache | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the configuration: another process reads what it needs itself."""
        names = ("store", "_names", "schema", "_memory", "_granted", "_min_chunks", "_chunk_rows", "_first_rows")
        return {name: self.__dict__[name] for name in (*names, "_is_ragged")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing held."""
        self.__dict__.update(state)
        self._reset()

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the plain columns of a full chunk when decoded."""
        return sum(self._chunk_rows * column.entry_bytes for column in self.schema.values() if column.per is None)

    @property
    def chunk_reads(self) -> int:
        """Number of chunks read so far."""
        return self._loads.chunk_reads

    @property
    def bytes(self) -> int:
        """Bytes of decoded chunks in memory."""
        return self._slots.arena.bytes + (0 if self._second is None else self._second.bytes)

    def divide_memory(self, processes: int) -> None:
        """Use an equal share of the memory in each of several processes; a change empties the cache."""
        if self._granted != self._memory // processes:
            self._granted = self._memory // processes
            self._reset()

    def has_room(self, count: int) -> bool:
        """Return True if ``count`` more chunks can be leased without evicting pinned ones, as far as is known.

        The size of ragged columns is taken to be the largest that was seen.
        """
        with self._lock:
            self._unpin()
            slots = self._slots
            if self._is_ragged and not slots.held.any():
                return not slots.pins.any()
            # A store that fits needs no more memory for a lease, whatever it pins.
            pinned = min(int((slots.pins > 0).sum()) + count, self.store.chunks)
            if pinned > slots.arena.slots:
                return False
            largest = max(self.chunk_bytes, slots.max_chunk_bytes)
            return not self._is_ragged or pinned * largest <= self._granted

    def lease(self, chunks: Indices, executor: Executor | None = None) -> ChunkLease:
        """Pin distinct chunks and begin to read those that are not in the cache.

        Args:
            chunks: Numbers of the chunks, (n,).
            executor: Pool whose threads read them. None: they are read by ``ready``.

        Raises:
            InvalidArgument: More chunks than fit into memory.
        """
        if self._pid != os.getpid():  # the threads that would finish loads are in the parent
            self._reset()
        if len(chunks) > self._slots.arena.slots:
            raise InvalidArgument(
                f"memory: too small for {len(chunks):,} chunks that are used together, got {self._granted:,} bytes; "
                f"expected {len(chunks) * self.chunk_bytes:,}. Use a larger memory= or a smaller window="
            )
        with self._lock:
            self._unpin()
            slots = self._slots.assign(chunks, self._loads.loading())
            if slots is not None:
                self._slots.pins[slots] += 1
                awaited = set() if executor is None else self._loads.begin(chunks, slots, executor)
                return ChunkLease(self, chunks, slots, awaited)
        return self._other().lease(chunks, executor)

    def chunks_of(self, rows: Indices) -> tuple[Indices, Indices]:
        """Return the chunks that hold ``rows``, ascending, and for each row the index of its chunk among them."""
        chunk_of = np.searchsorted(self._first_rows, rows, side="right") - 1
        used = np.zeros(len(self._first_rows) - 1, np.bool_)
        used[chunk_of] = True
        return np.flatnonzero(used), (np.cumsum(used) - 1)[chunk_of]

    def gather(self, rows: Indices) -> Arrays:
        """Return copies of any rows of the store, in their order, reading on this thread what is not in the cache.

        Raises:
            StoreCorrupt: Bytes in the store are not what was committed.
        """
        if not len(rows):
            return empty_rows(self.schema)
        shift_of = self._slots.shift_of
        if shift_of is not None:  # nothing is evicted any more, so no lease is needed
            return self.copy_rows(rows + shift_of[np.searchsorted(self._first_rows, rows, side="right") - 1])
        chunks, index = self.chunks_of(rows)
        limit = self._slots.arena.slots
        if len(chunks) <= limit:
            with suppress(NoRoom):
                return self._gather_group(chunks, rows, index)
        groups = [chunks[start : start + limit] for start in range(0, len(chunks), limit)]
        gathered, positions = [], []
        while groups:
            group = groups.pop()
            of_group = np.flatnonzero(np.isin(chunks, group)[index])
            try:
                columns = self._gather_group(group, rows[of_group], np.searchsorted(group, chunks[index[of_group]]))
            except NoRoom:  # ragged entries take more memory than the plain columns suggested
                groups += [group[: len(group) // 2], group[len(group) // 2 :]]
                continue
            gathered.append(columns)
            positions.append(of_group)
        if len(gathered) == 1:
            return gathered[0]
        back = np.argsort(np.concatenate(positions))
        return ragged.take(ragged.join(gathered), self.schema, back)

    def _gather_group(self, chunks: Indices, rows: Indices, index: Indices) -> Arrays:
        lease = self.lease(chunks)
        try:
            lease.load()
            return lease.gather(index, rows)
        finally:
            lease.release()

    def _other(self) -> ChunkCache:
        """Return a second cache, for a reader whose chunks do not fit because other readers hold theirs."""
        with self._lock:
            if self._second is None:
                self._second = ChunkCache(self.store, self._names, self._granted, min_chunks=self._min_chunks)
            return self._second

    def _unpin(self) -> None:
        """Apply releases. They are queued, because a finalizer must not wait for a lock that its thread may hold."""
        while not self._released.empty():
            self._slots.pins[self._released.get_nowait()] -= 1

    def missing(self, slots: Indices) -> Indices:
        """Return the indices of the slots whose chunks are not decoded."""
        return np.flatnonzero(~self._slots.held[slots])

    def load_here(self, chunk: int, slot: int) -> None:
        """Read a chunk on this thread, or wait for another thread that reads it; see ``ChunkLoads``."""
        self._loads.load_here(chunk, slot)

    def shifts(self, chunks: Indices, slots: Indices) -> Indices:
        """Return, for each chunk, the place of a row in the arena minus its number in the store."""
        return self._slots.shifts(chunks, slots)

    def copy_rows(self, places: Indices) -> Arrays:
        """Return copies of the rows at places in the arena."""
        return self._slots.arena.gather(places, self._pool)

    def copy_column(self, name: str, places: Indices) -> NDArray[Any]:
        """Return a copy of one plain column of the rows at places in the arena."""
        return self._slots.arena.column(name, places)

    def release(self, slots: Indices) -> None:
        """Release the pins of a lease. Never waits, so that finalizers may call it."""
        self._released.put(slots)

    def lease_elsewhere(self, chunks: Indices, slots: Indices) -> ChunkLease:
        """Exchange a lease whose ragged columns do not fit for one in the second cache.

        Raises:
            InvalidArgument: The chunks take more memory than is granted, even alone.
        """
        with self._lock:
            self._unpin()
            others = np.setdiff1d(np.flatnonzero(self._slots.pins), slots)
            if not len(others):
                held = int(self._slots.held[slots].sum())
                raise InvalidArgument(
                    f"memory: too small for a window of {len(chunks):,} chunks, got {self._granted:,} bytes, which the "
                    f"first {held:,} of them fill. Use a larger memory= or window={max(1, held // 2)}"
                )
        self.release(slots)
        return self._other().lease(chunks)


class ChunkLease:
    """Chunks that are pinned in a cache; made by ``ChunkCache.lease``.

    Attributes:
        chunks: Numbers of the chunks, (n,).
    """

    def __init__(self, cache: ChunkCache, chunks: Indices, slots: Indices, awaited: set[Future[None]]) -> None:
        self.chunks = chunks
        self._cache = cache
        self._slots = slots
        self._shifts = cache.shifts(chunks, slots)
        self._awaited = awaited

    def ready(self, *, elsewhere: bool = False) -> None:
        """Wait until every chunk is decoded.

        Args:
            elsewhere: If the ragged columns do not fit beside those that other readers pinned, use a second cache.

        Raises:
            StoreCorrupt: Bytes in the store are not what was committed.
            NoRoom: The ragged columns do not fit.
            InvalidArgument: The chunks take more memory than is granted, even alone.
        """
        for future in self._awaited:
            with suppress(CancelledError):
                future.exception()
        self._awaited = set()
        with suppress(*([NoRoom] if elsewhere else [])):
            self.load()
            return
        other = self._cache.lease_elsewhere(self.chunks, self._slots)
        self._cache, self._slots, self._shifts = other._cache, other._slots, other._shifts  # noqa: SLF001  a lease too
        self.ready(elsewhere=True)

    def load(self) -> None:
        """Read the chunks that no thread could read, or that another reader gave up, on this thread.

        Raises:
            StoreCorrupt: Bytes in the store are not what was committed.
            NoRoom: The ragged columns of a chunk do not fit.
        """
        for index in self._cache.missing(self._slots).tolist():
            self._cache.load_here(int(self.chunks[index]), int(self._slots[index]))

    def gather(self, index: Indices, rows: Indices) -> Arrays:
        """Return copies of rows, in their order, once the lease is ready.

        Args:
            index: Index of each row's chunk in ``chunks``, (m,).
            rows: Row numbers in the store, (m,).
        """
        return self._cache.copy_rows(rows + self._shifts.take(index))

    def column(self, name: str, index: Indices, rows: Indices) -> NDArray[Any]:
        """Return one plain column of rows, as ``gather`` does."""
        return self._cache.copy_column(name, rows + self._shifts.take(index))

    def release(self) -> None:
        """Let the chunks be evicted. Never waits, so that finalizers may call it."""
        self._cache.release(self._slots)


def empty_rows(schema: Mapping[str, Column]) -> Arrays:
    """Return no rows of the columns of ``schema``."""
    return {name: np.empty((0, *column.shape), column.dtype) for name, column in schema.items()}
