"""Walking through the rows of a feed in the order of its epochs, windows ahead of whoever asks.

While the rows of one window are taken, the next ones are arranged, read, verified and decoded by a few threads, as far
as the memory that was granted goes. Every position of every epoch can be reached directly, at the cost of one window.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import Column
from softlabels.encodings import rows as ragged
from softlabels.errors import InvalidArgument
from softlabels.loading.background import Threads, ending
from softlabels.loading.feed import Feed
from softlabels.loading.joining import Pairs, Rows
from softlabels.loading.order import Order, Window, by_length
from softlabels.loading.space import Arrays
from softlabels.loading.tables import Table, Tables, empty_rows
from softlabels.store import Store

MOST_AHEAD = 2
"""Windows that are read before they are needed."""
MOST_THREADS = 4
SMALL_CHUNK = 2**18
"""Bytes as stored from which on chunks are read by several threads."""
MOST_COPIERS = 2
BLOCKS_AHEAD = 2
"""Blocks of rows that are copied before they are needed."""


@dataclass(frozen=True)
class Taken:
    """Rows in the order of the epoch.

    Attributes:
        store_rows: (n,) of the first member; of the data, where there is no store.
        source_rows: (n,) of the data; the same as store_rows without a join.
        columns: of each member.
    """

    store_rows: Rows
    source_rows: Rows
    columns: tuple[Arrays, ...]


class Block:
    """Rows that were copied out of a window together, from which batches are cut without another copy.

    Args:
        taken: the rows.
        schemas: of each member's columns.

    Attributes:
        rows: how many.
    """

    def __init__(self, taken: Taken, schemas: tuple[Mapping[str, Column], ...]) -> None:
        self.rows = len(taken.store_rows)
        self._taken = taken
        # Each column with where its rows' entries begin, if it is ragged.
        self._columns: list[list[tuple[str, NDArray[Any], NDArray[np.int64] | None]]] = []
        for arrays, schema in zip(taken.columns, schemas, strict=True):
            bounds = ragged.bounds(arrays, schema)
            self._columns.append([(name, array, bounds.get(schema[name].per or "")) for name, array in arrays.items()])

    def cut(self, start: int, stop: int) -> Taken:
        """Rows from ``start`` to ``stop``, over the same memory."""
        taken = self._taken
        columns = tuple(
            {name: array[start:stop] if begin is None else array[begin[start] : begin[stop]]
             for name, array, begin in member}
            for member in self._columns
        )  # fmt: skip
        return Taken(taken.store_rows[start:stop], taken.source_rows[start:stop], columns)


@dataclass(frozen=True)
class Loaded:
    """A window whose rows can be taken.

    Attributes:
        store_rows: (size,) in order.
        source_rows: (size,).
        tables: the chunks, by member.
        where: (size,) in the table, by member.
    """

    store_rows: Rows
    source_rows: Rows
    tables: tuple[Table, ...]
    where: tuple[Rows, ...]

    def take(self, start: int, stop: int) -> Block:
        """Rows by position in the window, once it is ready."""
        columns = tuple(table.take(where[start:stop]) for table, where in zip(self.tables, self.where, strict=True))
        taken = Taken(self.store_rows[start:stop], self.source_rows[start:stop], columns)
        return Block(taken, tuple(table.schema for table in self.tables))

    def ready(self) -> None:
        """Wait until all chunks are there.

        Raises:
            StoreCorrupt: bytes in a store are not what was committed.
        """
        for table in self.tables:
            table.ready()

    def release(self) -> None:
        """Give the memory back."""
        for table in self.tables:
            table.release()


def tables_of(feed: Feed) -> list[Tables]:
    """What reads the stores of a feed; its memory is divided among them as they have bytes.

    Raises:
        InvalidArgument: a window takes more memory than was granted.
    """
    total = sum(member.store.bytes for member in feed.members)
    tables = [Tables(member.store, member.names, feed.memory * member.store.bytes // total) for member in feed.members]
    chunks, size = _window_size(feed, tables)
    if size > feed.memory:
        raise InvalidArgument(
            f"a window of {chunks} chunks takes {size:,} bytes when decoded, but memory is {feed.memory:,}; grant "
            f"more, or use a smaller window ({max(1, feed.memory * chunks // size)} fits)"
        )
    return tables


def _window_size(feed: Feed, tables: list[Tables]) -> tuple[int, int]:
    """Chunks of a window, and the bytes of their plain columns when decoded."""
    chunks = min(feed.window, max(1, len(feed.chunk_starts()) - 1))
    return chunks, chunks * sum(each.chunk_bytes for each in tables)


class WindowReader:
    """Reads windows of a feed with a few threads.

    Args:
        feed: what there is.
        tables: what reads its stores.

    Attributes:
        feed: what there is.
    """

    def __init__(self, feed: Feed, tables: list[Tables]) -> None:
        self.feed = feed
        self._ending = ending  # kept here, for modules are emptied when the interpreter ends
        self._tables = tables
        self._pool = Threads(feed.threads, "decode")
        # Apart, so that rows of this window do not queue behind the chunks of the next ones.
        self._copiers = Threads(min(MOST_COPIERS, cores()), "copy")

    @property
    def most(self) -> int:
        """Windows that fit into memory: all of a store that is kept, until it turns out not to fit."""
        size = 0 if all(each.whole for each in self._tables) else _window_size(self.feed, self._tables)[1]
        return 1 + max(0, min(MOST_AHEAD, self.feed.memory // size - 1)) if size else 1 + MOST_AHEAD

    def begin(self, order: Order, window: Window, pairs: Pairs) -> Pending:
        """Begin to read a window."""
        arranged = self._pool.submit(order.arrange, window)
        tables = []
        for number, (member, made_by) in enumerate(zip(self.feed.members, self._tables, strict=True)):
            chunks = window.chunks
            if number:
                chunks, _ = made_by.chunks_of(member.of(pairs.of_store(arranged.result()[0])))
            tables.append(made_by.read(chunks, self._pool))
        return Pending(arranged, window, pairs, tuple(tables))

    def wait(self, pending: Pending) -> Loaded:
        """The window, as soon as its order is known; its chunks are waited for when rows are taken."""
        items, places = pending.arranged.result()
        if self.feed.lengths is not None:
            table = pending.tables[0]
            table.ready()
            lengths = table.plain(self.feed.lengths, table.where(places, pending.pairs.of_store(items)))
            order = by_length(pending.window, lengths, self.feed.batch, self.feed.seed)
            items, places = items[order], places[order]
        rows = pending.pairs.of_store(items)
        found = []
        for number, (member, made_by) in enumerate(zip(self.feed.members, self._tables, strict=True)):
            theirs = member.of(rows)
            mine = made_by.chunks_of(theirs)[1] if number else places
            found.append(pending.tables[number].where(mine, theirs))
        return Loaded(rows, pending.pairs.of_source(items), pending.tables, tuple(found))

    def take(self, loaded: Loaded, start: int, stop: int) -> Future[Block]:
        """Begin to copy rows by position in a window."""
        return self._copiers.submit(loaded.take, start, stop)

    def none(self) -> Taken:
        """No rows at all."""
        nothing = np.empty(0, np.int64)
        return Taken(nothing, nothing, tuple(empty_rows(tables.schema) for tables in self._tables))

    def close(self) -> None:
        """Stop reading."""
        self._ending(self._stop)

    def _stop(self) -> None:
        self._copiers.end()
        self._pool.end()


@dataclass(frozen=True)
class Pending:
    """A window that is being read."""

    arranged: Future[tuple[Rows, Rows]]
    window: Window
    pairs: Pairs
    tables: tuple[Table, ...]


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
        self, feed: Feed, tables: list[Tables], epoch: int, position: int, *, endless: bool = False, block: int = 1
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

    def take(self, number: int) -> Taken:
        """The next rows.

        Raises:
            StoreCorrupt: bytes in a store are not what was committed.
        """
        pieces: list[Taken] = []
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


def _windows(feed: Feed, epoch: int, position: int, *, endless: bool) -> Iterator[tuple[Order, Window, Pairs, int]]:
    """Windows from a position on, each with the positions of it that come before."""
    for number in count(epoch):
        pairs = feed.pairs(number)
        order = feed.order(pairs)
        for window in order.windows(number, position):
            yield order, window, pairs, max(position - window.start, 0)
        position = 0
        if not endless:
            return


def joined(pieces: list[Taken]) -> Taken:
    """Rows one after the other."""
    if len(pieces) == 1:
        return pieces[0]
    columns = tuple(ragged.join(parts) for parts in zip(*(piece.columns for piece in pieces), strict=True))
    store_rows = np.concatenate([piece.store_rows for piece in pieces])
    return Taken(store_rows, np.concatenate([piece.source_rows for piece in pieces]), columns)


def default_threads(stores: Sequence[Store]) -> int:
    """As many as there are cores for this process, at most four; one where chunks are small.

    Small ones are mostly calls from Python, and two threads that take turns at those need longer than one.
    """
    small = sum(store.bytes for store in stores) < SMALL_CHUNK * sum(store.chunks for store in stores)
    return 1 if small else min(MOST_THREADS, cores())


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
