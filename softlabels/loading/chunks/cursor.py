"""A position in the rows of a plan, which moves forward while windows ahead of it are read.

While rows of one window are copied, the next windows are arranged, read, verified and decoded by a few threads, as far
as memory allows. Every position of every epoch can be reached directly, at the cost of reading one window.

    windows   |.......current.......|......ahead......|......ahead......|
    blocks         |bbbb|bbbb|bbbb|                      copied by threads, BLOCKS_AHEAD before they are needed
    batches        |b|b|b|b|                             slices of a block
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import chain
from itertools import count as count_from

import numpy as np

from softlabels.loading.chunks.budget import cores
from softlabels.loading.chunks.cache import ChunkCache, empty_rows
from softlabels.loading.chunks.rows import RowColumns, concat_rows
from softlabels.loading.chunks.slots import NoRoom
from softlabels.loading.chunks.threads import Threads
from softlabels.loading.chunks.windows import OpenWindow
from softlabels.loading.order.epoch import EpochPlan, Pairs
from softlabels.loading.order.shuffle import Order, Window

WINDOWS_AHEAD = 2
"""Windows that are read before they are needed, if memory allows."""
BLOCKS_AHEAD = 2
"""Blocks of rows that are copied before they are needed."""
MAX_COPY_THREADS = 2


PlannedWindow = tuple[Order, Window, Pairs, int]
"""Order and pairs of an epoch, a window of it, and the number of the window's positions to skip."""


class Cursor:
    """Returns rows from a position on, in order. Only one thread may use it.

    Rows are copied out of a window in blocks: one gather per column for many batches, which are then slices of the
    block. Whoever holds a batch holds its block.

    Args:
        plan: Plan of the epochs.
        caches: Cache of each store.
        epoch: Epoch to begin in.
        position: Position to begin at.
        endless: Continue with the next epochs.
        block: Rows to copy at a time, if that many consecutive ones are read. 1: as many as are requested.
    """

    def __init__(
        self,
        plan: EpochPlan,
        caches: list[ChunkCache],
        epoch: int,
        position: int,
        *,
        endless: bool = False,
        block: int = 1,
    ) -> None:
        self._plan = plan
        self._caches = caches
        self._threads = Threads(plan.threads, "decode")
        # A pool of its own, so that rows of this window do not queue behind chunks of the next ones.
        self._copy_threads = Threads(min(MAX_COPY_THREADS, cores()), "copy")
        self._coming: Iterator[PlannedWindow] = _windows(plan, epoch, position, endless=endless)
        self._next: PlannedWindow | None = next(self._coming, None)
        self._ahead: deque[tuple[OpenWindow, PlannedWindow]] = deque()
        self._max_ahead = 0  # the first window is not to wait behind chunks of the next ones
        self._window: OpenWindow | None = None
        self._position = 0  # within the window
        self._block_rows = block
        self._block: RowColumns | None = None
        self._block_start = 0
        self._copies: deque[tuple[range, Future[RowColumns]]] = deque()
        for member in plan.members:
            self._threads.submit(member.store.load_priors)
        self._open_windows()

    def read(self, count: int) -> RowColumns:
        """Return the next rows.

        Raises:
            StoreCorrupt: Bytes in a store are not what was committed.
            InvalidArgument: A window takes more memory than is granted.
        """
        runs: list[RowColumns] = []
        while count > 0:
            start = self._position - self._block_start
            if self._block is None or not 0 <= start < len(self._block):
                self._next_block(count)
                continue
            stop = min(start + count, len(self._block))
            runs.append(self._block.slice(start, stop))
            count -= stop - start
            self._position += stop - start
        return concat_rows(runs) if runs else self._no_rows()

    def skip(self, count: int) -> None:
        """Move forward without reading rows. Windows that are skipped are not waited for."""
        while count > 0:
            window = self._current()
            step = min(count, window.size - self._position)
            self._position += step
            count -= step

    def close(self) -> None:
        """Stop reading. Never waits, so that finalizers may call it."""
        self._copy_threads.end()
        self._threads.end()
        self._release_ahead()
        if self._window is not None:
            running = [copied for _, copied in self._copies if not copied.cancel()]
            for copied in running:
                copied.add_done_callback(self._window.release_after(running))
            if not running:
                self._window.release()
        self._window = None

    def _next_block(self, count: int) -> None:
        """Copy the block that holds the next row, and as many of the next ``count`` as its window has."""
        window = self._current()
        self._wait_for(window)
        self._max_ahead = WINDOWS_AHEAD
        self._open_windows()  # now that the size of ragged columns is known
        if self._block_rows == 1:  # the rows in between are read elsewhere, so the next block is unknown
            self._block_start = self._position
            self._block = window.copy(self._position, min(self._position + count, window.size))
            return
        while self._copies and self._position not in self._copies[0][0]:
            self._copies.popleft()
        while len(self._copies) <= BLOCKS_AHEAD:
            start = self._copies[-1][0].stop if self._copies else self._position
            positions = range(start, min(start + max(count, self._block_rows), window.size))
            if not positions:
                break
            self._copies.append((positions, self._copy_threads.submit(window.copy, positions.start, positions.stop)))
        positions, copied = self._copies.popleft()
        self._block_start, self._block = positions.start, copied.result()

    def _wait_for(self, window: OpenWindow) -> None:
        with suppress(NoRoom):
            window.ready()
            return
        # Ragged columns are larger than expected. Windows ahead give way and are opened again later.
        planned = [plan for _, plan in self._ahead] + ([] if self._next is None else [self._next])
        self._release_ahead()
        self._coming = chain(planned, self._coming)
        self._next = next(self._coming, None)
        window.ready(elsewhere=True)

    def _release_ahead(self) -> None:
        for opened, _ in self._ahead:
            opened.release()
        self._ahead.clear()

    def _current(self) -> OpenWindow:
        """Return the window that holds the next row."""
        if self._window is not None and self._position < self._window.size:
            return self._window
        if self._window is not None:
            for _, copied in self._copies:
                if not copied.cancel():
                    copied.exception()  # waits: its rows must not be evicted while they are copied
            self._copies.clear()
            self._window.release()
            self._window = self._block = None
        if not self._ahead:
            self._open_windows()
        self._window, (_, _, _, self._position) = self._ahead.popleft()
        self._open_windows()
        return self._window

    def _open_windows(self) -> None:
        """Begin to read the next windows, as far as memory allows; one window is open in any case."""
        while self._next is not None and len(self._ahead) < self._max_ahead + (self._window is None):
            order, window, pairs, _ = self._next
            if (self._ahead or self._window is not None) and not all(
                cache.has_room(len(window.chunks)) for cache in self._caches
            ):
                return
            opened = OpenWindow(self._plan, self._caches, order, window, pairs, self._threads)
            self._ahead.append((opened, self._next))
            self._next = next(self._coming, None)

    def _no_rows(self) -> RowColumns:
        nothing = np.empty(0, np.int64)
        schemas = tuple(cache.schema for cache in self._caches)
        return RowColumns(nothing, nothing, tuple(empty_rows(schema) for schema in schemas), schemas)


def _windows(plan: EpochPlan, epoch: int, position: int, *, endless: bool) -> Iterator[PlannedWindow]:
    """Yield windows from a position on, each with the number of its positions that lie before that."""
    for number in count_from(epoch):
        pairs = plan.pairs(number)
        order = plan.order(pairs)
        for window in order.windows(number, position):
            yield order, window, pairs, max(position - window.start, 0)
        position = 0
        if not endless:
            return
