"""Reading of chunks into the slots of an arena, by threads: no slot is decoded twice at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Column
from softlabels.loading.chunks.arena import Arrays
from softlabels.loading.chunks.slots import ChunkSlots, Indices
from softlabels.store import Store

TASK_BYTES = 2**20
"""Threads read chunks in runs of about this size as stored: handing over a small chunk takes as long as reading it."""


class ChunkLoads:
    """The loads of chunks of one store. Threads may share it.

    Args:
        store: Store to read from.
        schema: Columns to read, by name.
        slots: Slots of the chunks.
        lock: Lock under which slots are changed.

    Attributes:
        chunk_reads: Number of chunks read so far.
    """

    def __init__(self, store: Store, schema: Mapping[str, Column], slots: ChunkSlots, lock: threading.Lock) -> None:
        self.chunk_reads = 0
        self._store = store
        self._schema = schema
        self._slots = slots
        self._lock = lock
        self._is_ragged = any(column.per is not None for column in schema.values())
        self._scratch = threading.local()
        self._futures: dict[int, Future[None]] = {}
        self._run_chunks = max(1, int(TASK_BYTES / (store.descriptor.chunk_rows * store.bytes_per_row)))
        if store.storage.read_threads > 1:  # the threads wait for requests, of which one run would send one by one
            self._run_chunks = 1

    def loading(self) -> list[int]:
        """Return the slots whose chunks threads decode. Callers hold the lock."""
        if self._futures:
            self._futures = {slot: future for slot, future in self._futures.items() if not future.done()}
        return list(self._futures)

    def begin(self, chunks: Indices, slots: Indices, executor: Executor) -> set[Future[None]]:
        """Submit loads of the chunks that are neither held nor loading. Callers hold the lock.

        Args:
            chunks: Numbers of the chunks, (n,).
            slots: Slots of the chunks, (n,).
            executor: Pool whose threads read.

        Returns:
            All loads to wait for until the chunks are held.
        """
        awaited, tasks = set(), []
        for chunk, slot in zip(chunks.tolist(), slots.tolist(), strict=True):
            if slot in self._futures:
                awaited.add(self._futures[slot])
            elif not self._slots.held[slot]:
                tasks.append((chunk, slot))
        for start in range(0, len(tasks), self._run_chunks):
            run = tasks[start : start + self._run_chunks]
            future = executor.submit(self._load, run)
            awaited.add(future)
            self._futures.update((slot, future) for _, slot in run)
        return awaited

    def load_here(self, chunk: int, slot: int) -> None:
        """Read a chunk on this thread, or wait for another thread that reads it.

        Args:
            chunk: Number of the chunk.
            slot: Slot of the chunk.

        Raises:
            StoreCorrupt: Bytes in the store are not what was committed.
            NoRoom: The ragged columns of the chunk do not fit.
        """
        while not self._slots.held[slot]:
            own: Future[None] = Future()
            own.set_running_or_notify_cancel()
            with self._lock:
                current = self._futures.get(slot)
                if current is None or current.done():
                    self._futures[slot] = current = own
            if current is own:
                try:
                    self._load([(chunk, slot)])
                finally:
                    own.set_result(None)
            else:
                with suppress(CancelledError):
                    current.exception()

    def _load(self, tasks: list[tuple[int, int]]) -> None:
        """Read chunks into their slots.

        Raises:
            StoreCorrupt: Bytes in the store are not what was committed.
            NoRoom: The ragged columns of a chunk do not fit.
        """
        names = list(self._schema)
        for chunk, slot in tasks:
            scratch: Arrays = self._scratch.__dict__
            columns = self._store.read_chunk(chunk, names, out=scratch | self._slots.arena.buffers(slot))
            if self._is_ragged:
                self._keep_buffers(scratch, columns)
            with self._lock:
                self.chunk_reads += 1
                self._slots.fill(slot, columns)

    def _keep_buffers(self, scratch: Arrays, columns: Mapping[str, NDArray[Any]]) -> None:
        """Keep the memory that ragged columns were decoded into, for the next chunk that this thread reads."""
        for name, column in self._schema.items():
            memory = columns[name].base
            if column.per is None or not isinstance(memory, np.ndarray) or not memory.flags.owndata:
                continue
            if memory.dtype == columns[name].dtype and len(memory) > len(scratch.get(name, ())):
                scratch[name] = memory
