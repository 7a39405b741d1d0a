"""Which rows there are and in which order: everything that decides what is handed out, and nothing that reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from softlabels.loading.buffer_pool import BufferPool
from softlabels.loading.join import Join, Pairs, Rows
from softlabels.loading.order.shuffle import Order
from softlabels.store import Store

PLAIN_CHUNK = 4096
"""Items of a chunk where there is no store whose chunks would say."""


@dataclass(frozen=True)
class StoreColumns:
    """A store that takes part.

    Attributes:
        store: it.
        names: of the columns to read.
        rows: for each row of the first member the row of this one; None: the same.
    """

    store: Store
    names: list[str]
    rows: Rows | None = None

    def of(self, rows: Rows) -> Rows:
        """The rows of this member that go with ``rows`` of the first one."""
        return rows if self.rows is None else self.rows[rows]


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """Items, epoch by epoch.

    Attributes:
        members: stores of the same rows, read in step; none: data alone.
        length: items in an epoch.
        joined: how store and data go together; None: item i is row i of both.
        subset: (length,) the rows that are items where nothing is joined; None: all.
        seed: of the order and of the views.
        shuffle: whether to.
        window: chunks shuffled together.
        lengths: the column to batch rows of about one length by; None: not.
        batch: rows of a batch, for ``lengths``.
        memory: bytes of decoded chunks that may be held.
        threads: that read and decode.
        orders: memory for orders.
    """

    members: tuple[StoreColumns, ...]
    length: int
    joined: Join | None = None
    subset: Rows | None = None
    seed: int = 0
    shuffle: bool = True
    window: int = 64
    lengths: str | None = None
    batch: int = 1
    memory: int = 2**28
    threads: int = 1
    orders: BufferPool = field(default_factory=BufferPool, repr=False, compare=False)

    def pairs(self, epoch: int) -> Pairs:
        """The items of an epoch."""
        return Pairs(self.length, self.subset) if self.joined is None else self.joined.pairs(self.seed, epoch)

    def order(self, pairs: Pairs) -> Order:
        """The order of an epoch with these items."""
        counts = pairs.per_chunk(self.chunk_starts())
        return Order(counts, seed=self.seed, shuffle=self.shuffle, window=self.window, memory=self.orders)

    def chunk_starts(self) -> NDArray[np.int64]:
        """The first row of each chunk, and at the end the number of rows."""
        if self.members:
            return np.concatenate([[0], np.cumsum(self.members[0].store.chunk_rows())])
        rows = self.length if self.subset is None else int(self.subset.max(initial=-1)) + 1
        return np.minimum(np.arange(0, rows + PLAIN_CHUNK, PLAIN_CHUNK), rows)
