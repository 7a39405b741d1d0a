"""The decoded chunks of one store, bounded in memory; the least recently used ones are evicted.

Readers lease chunks. A lease pins its chunks: they are read if they are not in the cache, and stay until the lease is
released. Chunks are read, verified and decoded by threads, each into its own slot of the arena, while Python goes on. A
store that fits into memory is thus decoded once, and from the second epoch on a gather costs what it does from any
array in memory.

    lease(chunks) -> ready() -> gather(rows) ... -> release()

State of a slot:

    free      no chunk is assigned
    loading   a future in ``_loads`` is not done
    held      the chunk is decoded; failed loads leave a slot that is neither held nor loading, and are tried again
    pinned    ``_pins`` > 0; neither pinned nor loading slots are evicted
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
from softlabels.store import Store

TASK_BYTES = 2**20
"""Threads read chunks in runs of about this size as stored: handing over a small chunk takes as long as reading it."""

Indices = NDArray[np.int64]


class NoRoom(Exception):
    """The ragged columns of a chunk do not fit beside those of pinned chunks."""


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
        chunk_reads: Number of chunks read so far.
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
        self._thread = threading.local()
        self._pool = BufferPool()
        # Compressed, ragged columns take less than decoded. What they take is known when they have been read.
        chunk_bytes = max(self.chunk_bytes, self.store.bytes // self.store.chunks if self._is_ragged else 0)
        slots = min(max(self._min_chunks, self._granted // max(1, chunk_bytes), 1), self.store.chunks)
        self._arena = ChunkArena(self.schema, slots, self._chunk_rows, self._granted)
        self._slot_of = np.full(self.store.chunks, -1)
        self._chunk_in = np.full(slots, -1)
        self._held = np.zeros(slots, np.bool_)
        self._pins = np.zeros(slots, np.int64)
        self._last_use = np.zeros(slots, np.int64)
        self._clock = 0
        self._shift_of: Indices | None = None  # see ``shifts``, of every chunk, once all of them are held for good
        self._loads: dict[int, Future[None]] = {}
        self._released: SimpleQueue[Indices] = SimpleQueue()
        self._max_chunk_bytes = self.chunk_bytes
        self._second: ChunkCache | None = None
        self.chunk_reads = 0

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
    def bytes(self) -> int:
        """Bytes of decoded chunks in memory."""
        return self._arena.bytes + (0 if self._second is None else self._second.bytes)

    def divide_memory(self, processes: int) -> None:
        """Use an equal share of the memory in each of several processes; a change empties the cache."""
        if self._granted != self._memory // processes:
            self._granted = self._memory // processes
            self._reset()

    def has_room(self, count: int) -> bool:
        """Return whether ``count`` more chunks can be leased without evicting pinned ones, as far as is known.

        The size of ragged columns is taken to be the largest that was seen.
        """
        with self._lock:
            self._unpin()
            if self._is_ragged and not self._held.any():
                return not self._pins.any()
            # A store that fits needs no more memory for a lease, whatever it pins.
            pinned = min(int((self._pins > 0).sum()) + count, self.store.chunks)
            if pinned > self._arena.slots:
                return False
            return not self._is_ragged or pinned * self._max_chunk_bytes <= self._granted

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
        if len(chunks) > self._arena.slots:
            raise InvalidArgument(
                f"memory: too small for {len(chunks):,} chunks that are used together, got {self._granted:,} bytes; "
                f"expected {len(chunks) * self.chunk_bytes:,}. Use a larger memory= or a smaller window="
            )
        with self._lock:
            self._unpin()
            slots = self._assign(chunks)
            if slots is not None:
                self._pins[slots] += 1
                awaited = set() if executor is None else self._begin(chunks, slots, executor)
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
        if self._shift_of is not None:  # nothing is evicted any more, so no lease is needed
            return self.copy_rows(rows + self._shift_of[np.searchsorted(self._first_rows, rows, side="right") - 1])
        chunks, index = self.chunks_of(rows)
        if len(chunks) <= self._arena.slots:
            with suppress(NoRoom):
                return self._gather_group(chunks, rows, index)
        groups = [chunks[start : start + self._arena.slots] for start in range(0, len(chunks), self._arena.slots)]
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
            self._pins[self._released.get_nowait()] -= 1
        if self._loads:
            self._loads = {slot: future for slot, future in self._loads.items() if not future.done()}

    def _assign(self, chunks: Indices) -> Indices | None:
        """Return a slot for each chunk, evicting the least recently used; None if too many are pinned."""
        self._clock += 1
        slots = self._slot_of[chunks]
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            busy = self._pins > 0
            busy[slots[slots >= 0]] = True
            busy[list(self._loads)] = True
            evictable = np.flatnonzero(~busy)
            if len(evictable) < len(missing):
                return None
            # Slots that were never used have the oldest clock, and among those the lowest come first.
            oldest = evictable[np.argsort(self._last_use[evictable], kind="stable")[: len(missing)]]
            for slot in oldest[self._chunk_in[oldest] >= 0].tolist():
                self._evict(slot)
            slots[missing] = oldest
            self._slot_of[chunks[missing]] = oldest
            self._chunk_in[oldest] = chunks[missing]
        self._last_use[slots] = self._clock
        return slots

    def _evict(self, slot: int) -> None:
        self._slot_of[self._chunk_in[slot]] = -1
        self._chunk_in[slot] = -1
        self._held[slot] = False
        self._last_use[slot] = 0
        self._arena.release(slot)

    def _begin(self, chunks: Indices, slots: Indices, executor: Executor) -> set[Future[None]]:
        """Submit loads of the chunks that are neither held nor loading; return all loads to wait for."""
        awaited, tasks = set(), []
        for chunk, slot in zip(chunks.tolist(), slots.tolist(), strict=True):
            if slot in self._loads:
                awaited.add(self._loads[slot])
            elif not self._held[slot]:
                tasks.append((chunk, slot))
        count = max(1, int(TASK_BYTES / (self._chunk_rows * self.store.bytes_per_row)))
        if self.store.storage.read_threads > 1:  # the threads wait for requests, of which one run would send one by one
            count = 1
        for start in range(0, len(tasks), count):
            run = tasks[start : start + count]
            future = executor.submit(self._load, run)
            awaited.add(future)
            self._loads.update((slot, future) for _, slot in run)
        return awaited

    def _load(self, tasks: list[tuple[int, int]]) -> None:
        """Read chunks into their slots.

        Raises:
            StoreCorrupt: Bytes in the store are not what was committed.
            NoRoom: The ragged columns of a chunk do not fit.
        """
        for chunk, slot in tasks:
            scratch: Arrays = self._thread.__dict__
            columns = self.store.read_chunk(chunk, self._names, out=scratch | self._arena.buffers(slot))
            if self._is_ragged:
                _keep_buffers(scratch, columns, self.schema)
            with self._lock:
                self._fill(slot, columns)

    def _fill(self, slot: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Store a chunk, evicting others until its ragged columns fit.

        Raises:
            NoRoom: They do not fit beside those of pinned chunks.
        """
        self.chunk_reads += 1
        if self._is_ragged:
            size = sum(array.nbytes for array in columns.values())
            self._max_chunk_bytes = max(self._max_chunk_bytes, size)
            self._reserve(slot, columns)
            self._arena.fill(slot, columns)
        self._held[slot] = True
        if len(self._held) == self.store.chunks and self._held.all():
            chunks = np.arange(self.store.chunks)
            self._shift_of = self.shifts(chunks, self._slot_of[chunks])

    def _reserve(self, slot: int, columns: Mapping[str, NDArray[Any]]) -> None:
        while True:
            self._arena.reserve(slot, columns)
            # A chunk that is alone always fits.
            if self._arena.bytes <= self._granted or not self._held.any():
                return
            if not self._evict_oldest():
                break
            self._arena.release(slot)
        # Nothing else can be evicted. Gaps between pinned chunks do not make them too large.
        if self._arena.bytes_in_use > self._granted:
            self._arena.release(slot)
            raise NoRoom

    def _evict_oldest(self) -> bool:
        """Evict the chunks that were used longest ago, all of them together so that their extents merge."""
        evictable = np.flatnonzero(self._held & (self._pins == 0))
        if len(evictable):
            last_use = self._last_use[evictable]
            for slot in evictable[last_use == last_use.min()].tolist():
                self._evict(slot)
        return len(evictable) > 0

    def load_here(self, chunk: int, slot: int) -> None:
        """Read a chunk on this thread, or wait for another thread that reads it: no slot is decoded twice at a time.

        Raises:
            StoreCorrupt: Bytes in the store are not what was committed.
            NoRoom: The ragged columns of the chunk do not fit.
        """
        while not self._held[slot]:
            own: Future[None] = Future()
            own.set_running_or_notify_cancel()
            with self._lock:
                current = self._loads.get(slot)
                if current is None or current.done():
                    self._loads[slot] = current = own
            if current is own:
                try:
                    self._load([(chunk, slot)])
                finally:
                    own.set_result(None)
            else:
                with suppress(CancelledError):
                    current.exception()

    def missing(self, slots: Indices) -> Indices:
        """Return the indices of the slots whose chunks are not decoded."""
        return np.flatnonzero(~self._held[slots])

    def shifts(self, chunks: Indices, slots: Indices) -> Indices:
        """Return, for each chunk, the place of a row in the arena minus its number in the store."""
        shifts: Indices = slots * self._chunk_rows - self._first_rows[chunks]
        return shifts

    def copy_rows(self, places: Indices) -> Arrays:
        """Return copies of the rows at places in the arena."""
        return self._arena.gather(places, self._pool)

    def copy_column(self, name: str, places: Indices) -> NDArray[Any]:
        """Return a copy of one plain column of the rows at places in the arena."""
        return self._arena.column(name, places)

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
            others = np.setdiff1d(np.flatnonzero(self._pins), slots)
            if not len(others):
                held = int(self._held[slots].sum())
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


def _keep_buffers(buffers: Arrays, columns: Mapping[str, NDArray[Any]], schema: Mapping[str, Column]) -> None:
    """Keep the memory that ragged columns were decoded into, for the next chunk that this thread reads."""
    for name, column in schema.items():
        memory = columns[name].base
        if column.per is None or not isinstance(memory, np.ndarray) or not memory.flags.owndata:
            continue
        if memory.dtype == columns[name].dtype and len(memory) > len(buffers.get(name, ())):
            buffers[name] = memory


def empty_rows(schema: Mapping[str, Column]) -> Arrays:
    """Return no rows of the columns of ``schema``."""
    return {name: np.empty((0, *column.shape), column.dtype) for name, column in schema.items()}
