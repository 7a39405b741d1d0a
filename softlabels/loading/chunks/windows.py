"""Windows of chunks: read and decoded by threads while rows of the window before are taken."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings import Column
from softlabels.errors import InvalidArgument
from softlabels.loading.chunks.arena import Arrays
from softlabels.loading.chunks.budget import cores
from softlabels.loading.chunks.cache import ChunkCache, ChunkLease, empty_rows
from softlabels.loading.chunks.threads import Threads, ending
from softlabels.loading.join import Pairs, Rows
from softlabels.loading.order.epoch import EpochPlan
from softlabels.loading.order.shuffle import Order, Window, by_length

MOST_AHEAD = 2
"""Windows that are read before they are needed."""


MOST_COPIERS = 2


@dataclass(frozen=True)
class RowColumns:
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

    def __init__(self, taken: RowColumns, schemas: tuple[Mapping[str, Column], ...]) -> None:
        self.rows = len(taken.store_rows)
        self._taken = taken
        # Each column with where its rows' entries begin, if it is ragged.
        self._columns: list[list[tuple[str, NDArray[Any], NDArray[np.int64] | None]]] = []
        for arrays, schema in zip(taken.columns, schemas, strict=True):
            bounds = ragged.bounds(arrays, schema)
            self._columns.append([(name, array, bounds.get(schema[name].per or "")) for name, array in arrays.items()])

    def cut(self, start: int, stop: int) -> RowColumns:
        """Rows from ``start`` to ``stop``, over the same memory."""
        taken = self._taken
        columns = tuple(
            {name: array[start:stop] if begin is None else array[begin[start] : begin[stop]]
             for name, array, begin in member}
            for member in self._columns
        )  # fmt: skip
        return RowColumns(taken.store_rows[start:stop], taken.source_rows[start:stop], columns)


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
    tables: tuple[ChunkLease, ...]
    where: tuple[Rows, ...]

    def take(self, start: int, stop: int) -> Block:
        """Rows by position in the window, once it is ready."""
        columns = tuple(table.take(where[start:stop]) for table, where in zip(self.tables, self.where, strict=True))
        taken = RowColumns(self.store_rows[start:stop], self.source_rows[start:stop], columns)
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


def tables_of(feed: EpochPlan) -> list[ChunkCache]:
    """What reads the stores of a feed; its memory is divided among them as they have bytes.

    Raises:
        InvalidArgument: a window takes more memory than was granted.
    """
    total = sum(member.store.bytes for member in feed.members)
    tables = [
        ChunkCache(member.store, member.names, feed.memory * member.store.bytes // total) for member in feed.members
    ]
    chunks, size = _window_size(feed, tables)
    if size > feed.memory:
        raise InvalidArgument(
            f"a window of {chunks} chunks takes {size:,} bytes when decoded, but memory is {feed.memory:,}; grant "
            f"more, or use a smaller window ({max(1, feed.memory * chunks // size)} fits)"
        )
    return tables


def _window_size(feed: EpochPlan, tables: list[ChunkCache]) -> tuple[int, int]:
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

    def __init__(self, feed: EpochPlan, tables: list[ChunkCache]) -> None:
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

    def none(self) -> RowColumns:
        """No rows at all."""
        nothing = np.empty(0, np.int64)
        return RowColumns(nothing, nothing, tuple(empty_rows(tables.schema) for tables in self._tables))

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
    tables: tuple[ChunkLease, ...]
