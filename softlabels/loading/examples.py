"""What a loader hands out, without when and to whom: its items, their order, and a batch of some of them."""

from __future__ import annotations

from typing import Any, Protocol

from softlabels.loading.batch import Batch
from softlabels.loading.chunks.budget import default_threads
from softlabels.loading.chunks.cursor import Cursor, joined
from softlabels.loading.chunks.windows import RowColumns, tables_of
from softlabels.loading.collate.collator import Collator
from softlabels.loading.ensemble import Ensemble, stores_of
from softlabels.loading.join import Rows
from softlabels.loading.order.epoch import EpochPlan
from softlabels.loading.order.steps import Span
from softlabels.loading.selection import select
from softlabels.loading.state import Identity
from softlabels.sources import Source
from softlabels.store import Store


class RowIterator(Protocol):
    """Goes through items in order."""

    def skip(self, number: int) -> None:
        """Go on without taking items."""

    def take(self, number: int) -> Any:
        """The next items, as ``RowDataset.batch`` wants them."""

    def close(self) -> None:
        """Stop reading."""


class RowDataset(Protocol):
    """Items in an order that only the seed decides.

    Attributes:
        length: items in an epoch.
        identity: what a position in them is a position in.
    """

    length: int
    identity: Identity

    def row_bytes(self) -> int:
        """About the bytes of an item in a batch."""

    def divide_memory(self, processes: int) -> None:
        """Keep stores whole only where so many processes can."""

    def walk(self, epoch: int, position: int, *, endless: bool = False, block: int = 1) -> RowIterator:
        """Begin at a position of an epoch, and copy ``block`` items at a time."""

    def batch(self, span: Span, pieces: list[Any]) -> Batch:
        """The batch of what was taken for a step, piece by piece."""


class Examples:
    """The rows of a store, of data, or of both joined by key; options are those of Loader.

    Raises:
        InvalidArgument: neither store nor data, or options that cannot be meant.
        KeyMissing: data without labels.
    """

    def __init__(
        self,
        store: Store | Ensemble | None,
        inputs: Source | None = None,
        *,
        rows: Rows | None = None,
        check: str = "sample",
        missing: str = "error",
        views: str = "all",
        seed: int = 0,
        shuffle: bool = True,
        window: int = 64,
        by_length: bool = False,
        batch_size: int = 1,
        memory: int = 2**28,
        threads: int | None = None,
        widen: bool = True,
        tensors: bool = False,
    ) -> None:
        selected = select(next(iter(stores_of(store)), None), inputs, rows, missing=missing, views=views)
        self.joined = selected.joined
        self.length = selected.length
        self.assembler = Collator(store, inputs, check=check, widen=widen, tensors=tensors, views=selected.has_views)
        self.feed = EpochPlan(
            members=self.assembler.members(),
            length=selected.length,
            joined=selected.joined,
            subset=selected.subset,
            seed=seed,
            shuffle=shuffle,
            window=window,
            lengths=self.assembler.length_column() if by_length else None,
            batch=batch_size,
            memory=memory,
            threads=threads or default_threads(stores_of(store)),
        )
        self.identity = Identity.of(store, inputs, self.feed)
        self._tables = tables_of(self.feed)

    def row_bytes(self) -> int:
        """See RowDataset.row_bytes."""
        return self.assembler.row_bytes()

    def divide_memory(self, processes: int) -> None:
        """See RowDataset.divide_memory."""
        for tables in self._tables:
            tables.divide(processes)

    def walk(self, epoch: int, position: int, *, endless: bool = False, block: int = 1) -> Cursor:
        """See RowDataset.walk."""
        return Cursor(self.feed, self._tables, epoch, position, endless=endless, block=block)

    def batch(self, span: Span, pieces: list[RowColumns]) -> Batch:
        """See RowDataset.batch.

        Raises:
            LabelsMisaligned: an input is not the one its labels were made from.
        """
        return self.assembler.batch(span, joined(pieces))
