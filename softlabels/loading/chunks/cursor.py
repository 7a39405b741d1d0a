"""Walking through the rows of a feed in the order of its epochs, windows ahead of whoever asks.

While the rows of one window are taken, the next ones are arranged, read, verified and decoded by a few threads, as far
as the memory that was granted goes. Every position of every epoch can be reached directly, at the cost of one window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import count, islice

import numpy as np

from softlabels import columns as ragged
from softlabels.loading.chunks.cache import ChunkCache
from softlabels.loading.chunks.windows import Block, Loaded, Pending, RowColumns, WindowReader
from softlabels.loading.join import Pairs
from softlabels.loading.order.epoch import EpochPlan
from softlabels.loading.order.shuffle import Order, Window

BLOCKS_AHEAD = 2
"""Blocks of rows that are copied before they are needed."""


class Cursor:
    """Hands out rows from a position on, in order. Not to be shared between threads.

    Rows are copied out of a window in blocks: one gather a column for many batches, which are then views of it. Whoever
    keeps a batch keeps its block.

    Args:
        feed: what there is.
        tables: what reads its stores.
        epoch: to begin in.
        position: to begin at.
        endless: go on into the next epochs.
        block: rows to copy at a time, where as many come one after the other; at least those that are taken.
    """

    def __init__(
        self,
        feed: EpochPlan,
        tables: list[ChunkCache],
        epoch: int,
        position: int,
        *,
        endless: bool = False,
        block: int = 1,
    ) -> None:
        self._reader = WindowReader(feed, tables)
        self._coming = _windows(feed, epoch, position, endless=endless)
        self._ahead: deque[tuple[Pending, int]] = deque()
        self._now: Loaded | None = None
        self._at = self._end = 0
        self._rows = block
        self._block: Block | None = None
        self._block_at = 0
        self._blocks: deque[tuple[range, Future[Block]]] = deque()
        self._fill()

    def take(self, number: int) -> RowColumns:
        """The next rows.

        Raises:
            StoreCorrupt: bytes in a store are not what was committed.
        """
        pieces: list[RowColumns] = []
        while number > 0 or not pieces:
            start, stop = self._at - self._block_at, self._at - self._block_at + number
            if self._block is None or not 0 <= start < self._block.rows:
                if number == 0:
                    return self._reader.none()
                self._next_block(number)
                continue
            stop = min(stop, self._block.rows)
            pieces.append(self._block.cut(start, stop))
            number -= stop - start
            self._at += stop - start
        return joined(pieces)

    def skip(self, number: int) -> None:
        """Go on without taking rows."""
        while number > 0:
            self._window()
            step = min(number, self._end - self._at)
            self._at += step
            number -= step

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _next_block(self, number: int) -> None:
        """Get the block that holds the next row, and as many of the next ``number`` as its window has."""
        window = self._window()
        window.ready()
        if self._rows == 1:  # others take rows in between, and nobody knows which come next
            self._block_at, self._block = self._at, window.take(self._at, min(self._at + number, self._end))
            return
        while self._blocks and self._at not in self._blocks[0][0]:
            self._blocks.popleft()
        while len(self._blocks) <= BLOCKS_AHEAD:
            start = self._blocks[-1][0].stop if self._blocks else self._at
            positions = range(start, min(start + max(number, self._rows), self._end))
            if not positions:
                break
            self._blocks.append((positions, self._reader.take(window, positions.start, positions.stop)))
        positions, block = self._blocks.popleft()
        self._block_at, self._block = positions.start, block.result()

    def _window(self) -> Loaded:
        """The window that holds the next row."""
        if self._now is not None and self._at < self._end:
            return self._now
        if self._now is not None:
            self._blocks.clear()
            self._now.release()
            self._now = self._block = None
        self._fill()
        pending, self._at = self._ahead.popleft()
        self._now = self._reader.wait(pending)
        self._end = pending.window.size
        self._fill()
        return self._now

    def _fill(self) -> None:
        """Begin to read as many windows as memory allows."""
        room = self._reader.most - len(self._ahead) - (self._now is not None)
        for order, window, pairs, skip in islice(self._coming, max(room, 0)):
            self._ahead.append((self._reader.begin(order, window, pairs), skip))


def _windows(
    feed: EpochPlan, epoch: int, position: int, *, endless: bool
) -> Iterator[tuple[Order, Window, Pairs, int]]:
    """Windows from a position on, each with the positions of it that come before."""
    for number in count(epoch):
        pairs = feed.pairs(number)
        order = feed.order(pairs)
        for window in order.windows(number, position):
            yield order, window, pairs, max(position - window.start, 0)
        position = 0
        if not endless:
            return


def joined(pieces: list[RowColumns]) -> RowColumns:
    """Rows one after the other."""
    if len(pieces) == 1:
        return pieces[0]
    columns = tuple(ragged.join(parts) for parts in zip(*(piece.columns for piece in pieces), strict=True))
    store_rows = np.concatenate([piece.store_rows for piece in pieces])
    return RowColumns(store_rows, np.concatenate([piece.source_rows for piece in pieces]), columns)
