"""The examples that a Loader iterates over: planned, read and collated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from softlabels.errors import InvalidArgument
from softlabels.loading.batch import Batch
from softlabels.loading.chunks.budget import default_threads
from softlabels.loading.chunks.cursor import Cursor
from softlabels.loading.chunks.rows import RowColumns, concat_rows
from softlabels.loading.chunks.windows import open_caches
from softlabels.loading.collate.collator import Check, Collator, effective_check
from softlabels.loading.ensemble import Ensemble, stores_of
from softlabels.loading.join import Missing, Views, aligned_rows, match
from softlabels.loading.order.epoch import (
    EpochPlan,
    Join,
    Rows,
    label_bytes,
    length_column,
    select_columns,
    select_rows,
)
from softlabels.loading.order.steps import Span
from softlabels.loading.state import Identity
from softlabels.loading.view_means import ViewMeans
from softlabels.loading.view_replay import replay_of
from softlabels.sources import Source
from softlabels.sources.store_tokens import StoreTokens
from softlabels.store import Store

ORDERED_WINDOW = 16
"""Most chunks of a window if rows are read in their order: the first batch waits for all of them."""


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """The options of a Loader that concern its examples; see there for their meaning and defaults."""

    batch_size: int
    seed: int
    shuffle: bool
    window: int
    by_length: bool
    check: Check
    missing: Missing
    views: Views
    memory: int
    threads: int | None
    workers: int = 0
    tensors: bool


@dataclass(frozen=True)
class ReadStatistics:
    """Figures of what a loader has read in this process.

    Attributes:
        chunk_reads: Number of chunks that were read, verified and decoded.
        bytes_held: Bytes of decoded chunks in memory.
    """

    chunk_reads: int
    bytes_held: int


class RowIterator(Protocol):
    """An iterator over rows in order."""

    def skip(self, count: int) -> None:
        """Move forward without reading rows."""

    def read(self, count: int) -> Any:
        """Return the next rows, for ``RowDataset.batch``."""

    def close(self) -> None:
        """Stop reading. Never waits, so that finalizers may call it."""


class RowDataset(Protocol):
    """Examples in an order that only the seed decides.

    Attributes:
        length: Number of examples in an epoch.
        identity: Identity of the order.
    """

    length: int
    identity: Identity

    @property
    def row_bytes(self) -> int:
        """Approximate bytes of an example in a batch."""

    @property
    def statistics(self) -> ReadStatistics:
        """Figures of what was read."""

    def divide_memory(self, processes: int) -> None:
        """Use an equal share of the memory in each of several processes."""

    def iterate(self, epoch: int, position: int, *, endless: bool = False, block: int = 1) -> RowIterator:
        """Begin at a position of an epoch, and copy ``block`` rows at a time."""

    def batch(self, span: Span, runs: list[Any]) -> Batch:
        """Return the batch of the rows that were read for a step, in one or more runs."""


class Examples:
    """The rows of a store, of data, or of both joined by key.

    Args:
        store: Store or Ensemble of the labels, if any.
        inputs: Data, if any.
        options: Options of the loader.
        rows: Rows to use, of the data if there is any, else of the store. None: all rows.
        windowed: Require memory for a window. If False, rows are read by number, and one chunk is enough.

    Raises:
        InvalidArgument: Neither store nor data, or invalid options.
        KeyMissing: Data rows without labels.
    """

    def __init__(
        self,
        store: Store | Ensemble | None,
        inputs: Source | None,
        options: ExampleOptions,
        *,
        rows: Rows | None = None,
        windowed: bool = True,
    ) -> None:
        stores = stores_of(store)
        is_mean = options.views == "mean"
        if is_mean and isinstance(store, Ensemble):
            raise InvalidArgument("views: mean is of the views of one store, got an ensemble; expected one or all")
        replay = None if is_mean else replay_of(store, inputs)
        check = "off" if replay is not None else effective_check(options.check, store, inputs)
        joined, selected, length = _choose_rows(stores[0] if stores else None, inputs, rows, options)
        views = replay is not None or (joined is not None and joined.has_views and not is_mean)
        aligned = [aligned_rows(stores[0], other) if number else None for number, other in enumerate(stores)]
        self.joined = joined
        self.length = length
        self.plan = EpochPlan(
            members=select_columns(stores, aligned, key=check != "off", view=views),
            length=length,
            joined=joined,
            subset=selected,
            seed=options.seed,
            shuffle=options.shuffle,
            # Rows that keep their order need not wait for a large window.
            window=options.window if options.shuffle or options.by_length else min(options.window, ORDERED_WINDOW),
            lengths=length_column(stores) if options.by_length else None,
            batch_size=options.batch_size,
            memory=options.memory,
            threads=options.threads or default_threads(stores, options.workers),
            # A live teacher, or true tokens, are compared with labels of the same store in the same order of rows.
            data_chunks=inputs.chunk_rows if not stores and isinstance(inputs, StoreTokens) else None,
        )
        self.identity = Identity.of(store, inputs, self.plan)
        input_bytes = 0 if inputs is None else inputs.input_dtype.itemsize * math.prod(inputs.input_shape)
        self._row_bytes = input_bytes + label_bytes(stores)
        self.caches = open_caches(self.plan, windowed=windowed)
        self._collator = Collator(
            store,
            inputs,
            check=check,
            tensors=options.tensors,
            views=views,
            replay=replay,
            means=ViewMeans.of(joined, self.caches[0]) if is_mean and joined is not None else None,
        )

    @property
    def row_bytes(self) -> int:
        """See RowDataset.row_bytes."""
        return self._row_bytes

    @property
    def statistics(self) -> ReadStatistics:
        """See RowDataset.statistics."""
        return ReadStatistics(
            sum(cache.chunk_reads for cache in self.caches), sum(cache.bytes for cache in self.caches)
        )

    def divide_memory(self, processes: int) -> None:
        """See RowDataset.divide_memory."""
        for cache in self.caches:
            cache.divide_memory(processes)

    def iterate(self, epoch: int, position: int, *, endless: bool = False, block: int = 1) -> Cursor:
        """See RowDataset.iterate."""
        return Cursor(self.plan, self.caches, epoch, position, endless=endless, block=block)

    def batch(self, span: Span, runs: list[RowColumns]) -> Batch:
        """See RowDataset.batch.

        Raises:
            LabelsMisaligned: An input is not the one that its labels were made from.
        """
        return self._collator.collate(span, concat_rows(runs))


def _choose_rows(
    store: Store | None, inputs: Source | None, rows: Rows | None, options: ExampleOptions
) -> tuple[Join | None, Rows | None, int]:
    """Return the rows of an epoch and their number: pairs of data and labels, else selected rows; None for all.

    Args:
        store: Store whose rows count, if any.
        inputs: Data, if any.
        rows: Rows to use, of the data if there is any, else of the store. None: all rows.
        options: Options of the loader.

    Raises:
        InvalidArgument: Neither store nor data, invalid options, or no rows.
        KeyMissing: Data rows without labels.
    """
    if inputs is not None:
        total = len(inputs)
    elif store is not None:
        total = store.rows
    else:
        raise InvalidArgument("loader: got neither a store nor inputs; expected a store, data, or both")
    selected = select_rows(rows, total)
    joined = match(store, inputs, selected, missing=options.missing, views=options.views)
    if joined is None:
        return None, selected, total if selected is None else len(selected)
    if len(joined) == 0:
        raise InvalidArgument("missing: no row of the data has a label; expected at least one")
    return joined, None, len(joined)
