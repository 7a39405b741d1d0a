"""Chunks in the slots of an arena: of those that nobody reads, the least recently used ones are evicted.

State of a slot:

    free      no chunk is assigned
    loading   a thread decodes its chunk, see ``loads``
    held      the chunk is decoded; failed loads leave a slot that is neither held nor loading, and are tried again
    pinned    ``pins`` > 0; neither pinned nor loading slots are evicted
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.loading.chunks.arena import ChunkArena

Indices = NDArray[np.int64]


class NoRoom(Exception):
    """The ragged columns of a chunk do not fit beside those of pinned chunks."""


class ChunkSlots:
    """The chunks in the slots of an arena. Changes must not overlap: callers hold one lock.

    Args:
        arena: Memory of the slots.
        first_rows: First row of each chunk, and the number of rows, (chunks + 1,).
        chunk_rows: Rows of a slot.
        memory: Bytes of decoded chunks to hold. One chunk is held in any case.
        is_ragged: If True, chunks have ragged columns, whose bytes are known when they are decoded.

    Attributes:
        arena: Memory of the slots.
        held: Slots whose chunk is decoded, (slots,) bool.
        pins: Number of readers of each slot, (slots,).
        shift_of: Shift of every chunk (see ``shifts``) once all are held and none is evicted any more; None before.
        max_chunk_bytes: Bytes of the largest chunk so far.
    """

    def __init__(
        self, arena: ChunkArena, first_rows: Indices, chunk_rows: int, memory: int, *, is_ragged: bool
    ) -> None:
        self.arena = arena
        self.held = np.zeros(arena.slots, np.bool_)
        self.pins = np.zeros(arena.slots, np.int64)
        self.shift_of: Indices | None = None
        self.max_chunk_bytes = 0
        self._first_rows = first_rows
        self._chunk_rows = chunk_rows
        self._memory = memory
        self._is_ragged = is_ragged
        self._slot_of = np.full(len(first_rows) - 1, -1)
        self._chunk_in = np.full(arena.slots, -1)
        self._last_use = np.zeros(arena.slots, np.int64)
        self._clock = 0

    def assign(self, chunks: Indices, loading: Collection[int]) -> Indices | None:
        """Return a slot for each chunk, evicting the least recently used; None if too many cannot be evicted.

        Args:
            chunks: Numbers of distinct chunks, (n,).
            loading: Slots whose chunks threads decode.
        """
        self._clock += 1
        slots = self._slot_of[chunks]
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            busy = self.pins > 0
            busy[slots[slots >= 0]] = True
            busy[list(loading)] = True
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

    def fill(self, slot: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Store a chunk in its slot, evicting others until its ragged columns fit.

        Args:
            slot: Slot of the chunk.
            columns: Decoded columns; plain ones lie in the slot already.

        Raises:
            NoRoom: They do not fit beside those of pinned chunks.
        """
        if self._is_ragged:
            size = sum(array.nbytes for array in columns.values())
            self.max_chunk_bytes = max(self.max_chunk_bytes, size)
            self._reserve(slot, columns)
            self.arena.fill(slot, columns)
        self.held[slot] = True
        if len(self.held) == len(self._slot_of) and self.held.all():
            chunks = np.arange(len(self._slot_of))
            self.shift_of = self.shifts(chunks, self._slot_of[chunks])

    def shifts(self, chunks: Indices, slots: Indices) -> Indices:
        """Return, for each chunk, the place of a row in the arena minus its number in the store."""
        shifts: Indices = slots * self._chunk_rows - self._first_rows[chunks]
        return shifts

    def _reserve(self, slot: int, columns: Mapping[str, NDArray[Any]]) -> None:
        while True:
            self.arena.reserve(slot, columns)
            # A chunk that is alone always fits.
            if self.arena.bytes <= self._memory or not self.held.any():
                return
            if not self._evict_oldest():
                break
            self.arena.release(slot)
        # Nothing else can be evicted. Gaps between pinned chunks do not make them too large.
        if self.arena.bytes_in_use > self._memory:
            self.arena.release(slot)
            raise NoRoom

    def _evict_oldest(self) -> bool:
        """Evict the chunks that were used longest ago, all of them together so that their extents merge."""
        evictable = np.flatnonzero(self.held & (self.pins == 0))
        if len(evictable):
            last_use = self._last_use[evictable]
            for slot in evictable[last_use == last_use.min()].tolist():
                self._evict(slot)
        return len(evictable) > 0

    def _evict(self, slot: int) -> None:
        self._slot_of[self._chunk_in[slot]] = -1
        self._chunk_in[slot] = -1
        self.held[slot] = False
        self._last_use[slot] = 0
        self.arena.release(slot)
