"""The plan of an epoch: its examples, their order, and the columns that are read for them. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.loading.buffer_pool import BufferPool
from softlabels.loading.order.shuffle import Order
from softlabels.rng import VIEW_STREAM, philox_words
from softlabels.store import Store

PLAIN_CHUNK_ROWS = 4096
"""Rows of a chunk if there is no store that defines chunks."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """The examples of an epoch as pairs of a store row and a data row, ascending by store row.

    Attributes:
        count: Number of examples.
        store_rows: Store row of each example, (count,). None: example i is row i.
        source_rows: Data row of each example, (count,). None: equal to the store row.
    """

    count: int
    store_rows: Rows | None = None
    source_rows: Rows | None = None

    def store_rows_of(self, items: Rows) -> Rows:
        """Return the store rows of examples."""
        return items if self.store_rows is None else self.store_rows[items]

    def source_rows_of(self, items: Rows) -> Rows:
        """Return the data rows of examples."""
        return self.store_rows_of(items) if self.source_rows is None else self.source_rows[items]

    def per_chunk(self, starts: Rows) -> Rows:
        """Return the number of examples in each chunk.

        Args:
            starts: First row of each chunk, and at the end the number of rows, (chunks + 1,).
        """
        if self.store_rows is None:
            return np.diff(starts)
        return np.diff(np.searchsorted(self.store_rows, starts))


@dataclass(frozen=True)
class Join:
    """A store joined to data by key.

    Attributes:
        examples: Data rows that have labels. None: there is no data, and all rows of the store are used.
        rows: Store rows of all views of all examples; those of one example are adjacent.
        views: Number of views of each example, (examples,).
        missing: Data rows that were requested and have no label.
        unused: Number of store rows that no example uses.
        draw: If True, an epoch has one view of each example. Otherwise every view is an example of its own.
        first: If True, that view is the first of each example in every epoch.
    """

    examples: Rows | None
    rows: Rows
    views: NDArray[np.int64]
    missing: Rows
    unused: int
    draw: bool
    first: bool = False

    def __len__(self) -> int:
        """Return the number of examples in an epoch."""
        return len(self.views) if self.draw else len(self.rows)

    @property
    def has_views(self) -> bool:
        """True if an example may have several views."""
        return self.draw or bool((self.views > 1).any())

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        return np.cumsum(self.views) - self.views

    def pairs(self, seed: int, epoch: int) -> Pairs:
        """Return the examples of an epoch. The view that is drawn depends on (seed, epoch, example) alone."""
        if self.draw:
            choices = np.maximum(self.views, 1).astype(np.uint64)
            drawn = philox_words(len(self.views), seed, epoch, VIEW_STREAM) % choices * (not self.first)
            rows, examples = self.rows[self._first + drawn.astype(np.int64)], self.examples
        else:
            rows = self.rows
            examples = None if self.examples is None else np.repeat(self.examples, self.views)
        order = np.argsort(rows, kind="stable")
        return Pairs(len(rows), rows[order], None if examples is None else examples[order])

    def report(self) -> str:
        """Return the counts of the join in one line."""
        return (
            f"{len(self.views):,} examples with {len(self.rows):,} labels; {len(self.missing):,} rows of the data have "
            f"no label, {self.unused:,} rows of the store are not used"
        )


@dataclass(frozen=True)
class StoreColumns:
    """A store and the columns that are read from it.

    Attributes:
        store: Store to read from.
        names: Names of the columns.
        rows: For each row of the first store the row of this one with the same key. None: the rows are the same.
    """

    store: Store
    names: list[str]
    rows: Rows | None = None

    def rows_for(self, rows: Rows) -> Rows:
        """Return the rows of this store that belong to ``rows`` of the first one."""
        return rows if self.rows is None else self.rows[rows]


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The examples of every epoch and the order in which they are read.

    Attributes:
        members: Stores that hold labels of the same rows, with the columns to read. Empty: there is data alone.
        length: Number of examples in an epoch.
        joined: Join of store and data. None: example i is row i of both.
        subset: Rows that are examples if nothing is joined, ascending, (length,). None: all rows.
        seed: Seed of the order and of the views.
        shuffle: If False, examples come in ascending order.
        window: Number of chunks whose rows are shuffled together.
        lengths: Column by which rows of similar length are batched. None: rows are not batched by length.
        batch_size: Rows of a batch, which ``lengths`` needs.
        memory: Bytes of decoded chunks to hold.
        threads: Number of threads that read and decode.
        data_chunks: Rows of each chunk of the data, (chunks,), if there is no store. None: ``PLAIN_CHUNK_ROWS``.
    """

    members: tuple[StoreColumns, ...]
    length: int
    joined: Join | None
    subset: Rows | None
    seed: int
    shuffle: bool
    window: int
    lengths: str | None
    batch_size: int
    memory: int
    threads: int
    data_chunks: Rows | None = None
    _orders: BufferPool = field(default_factory=BufferPool, repr=False, compare=False)

    def pairs(self, epoch: int) -> Pairs:
        """Return the examples of an epoch."""
        return Pairs(self.length, self.subset) if self.joined is None else self.joined.pairs(self.seed, epoch)

    def order(self, pairs: Pairs) -> Order:
        """Return the order of an epoch with these examples."""
        counts = pairs.per_chunk(self.chunk_starts)
        return Order(counts, seed=self.seed, shuffle=self.shuffle, window=self.window, pool=self._orders)

    @cached_property
    def chunk_starts(self) -> NDArray[np.int64]:
        """The first row of each chunk, and at the end the number of rows, (chunks + 1,)."""
        chunks = self.members[0].store.chunk_rows() if self.members else self.data_chunks
        if chunks is not None:
            return np.concatenate([[0], np.cumsum(chunks)])
        rows = self.length if self.subset is None else int(self.subset.max(initial=-1)) + 1
        return np.minimum(np.arange(0, rows + PLAIN_CHUNK_ROWS, PLAIN_CHUNK_ROWS), rows)


def select_columns(
    stores: Sequence[Store], aligned: Sequence[Rows | None], *, key: bool, view: bool
) -> tuple[StoreColumns, ...]:
    """Return the columns to read: those of all heads, and of the first store the keys and views that are needed.

    Args:
        stores: Stores of the same rows.
        aligned: For each store its rows in the order of the first one; see StoreColumns.rows.
        key: Read the key of each row.
        view: Read the view of each row.
    """
    members = []
    for number, (store, rows) in enumerate(zip(stores, aligned, strict=True)):
        names = [column for head in stores[0].heads for column in store.head_columns(head)]
        if number == 0:
            names += ["key"] * key + ["view"] * view
        members.append(StoreColumns(store, names, rows))
    return tuple(members)


def length_column(stores: Sequence[Store]) -> str:
    """Return the column that counts the positions of ragged rows.

    Raises:
        InvalidArgument: No head is ragged.
    """
    for name, head in stores[0].heads.items() if stores else ():
        if head.ragged:
            return f"{name}/length"
    raise InvalidArgument(
        "by_length: no head has ragged rows; expected a store with a head of shape (None,). Leave by_length out"
    )


def label_bytes(stores: Sequence[Store]) -> int:
    """Return the approximate bytes of a row's labels in a batch; ragged columns count as many as they take on disk."""
    total = 0
    for store in stores:
        entries = sum(column.entry_bytes for column in store.descriptor.columns().values())
        total += max(entries, int(store.bytes_per_row))
    return total


def select_rows(rows: Rows | None, total: int) -> Rows | None:
    """Return the selected rows in ascending order; None for all.

    Args:
        rows: Row numbers, (n,); None for all.
        total: Number of rows there are.

    Raises:
        InvalidArgument: A row that does not exist, or no rows.
    """
    if rows is None:
        if total == 0:
            raise InvalidArgument("rows: the data has no rows; expected at least one")
        return None
    selected = np.sort(np.asarray(rows, np.int64))
    if not len(selected):
        raise InvalidArgument("rows: got no rows; expected at least one. Leave rows= out to load all")
    if not 0 <= selected[0] <= selected[-1] < total:
        raise InvalidArgument(f"rows: got {selected[0]:,} to {selected[-1]:,}; expected 0 to {total - 1:,}")
    return selected
