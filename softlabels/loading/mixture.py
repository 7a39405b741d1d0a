"""Several datasets in one stream, each row from one of them, by weight.

Rows are dealt in blocks of 4,096. Every block has the same number of rows of each part, proportional to its weight, at
positions that depend on (seed, block) alone. So weights are met in every block, to 1/4,096. The rows of a part before
any position are a product and the count of one block, so every position can be reached directly. Each part goes through
its own order, epoch after epoch of its own: none of its rows repeats before all have come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.loading.batch import Batch
from softlabels.loading.chunks.rows import RowColumns
from softlabels.loading.collate.concat import Priors, concat_batches
from softlabels.loading.ensemble import Ensemble, opened
from softlabels.loading.examples import ExampleOptions, Examples, ReadStatistics, RowIterator
from softlabels.loading.order.epoch import Rows
from softlabels.loading.order.interleave import BLOCK, Interleave, quotas_of
from softlabels.loading.order.steps import Span
from softlabels.loading.state import Identity
from softlabels.loading.view_replay import source_of
from softlabels.store import Store
from softlabels.store.storage.storage import Location


@dataclass(frozen=True)
class Part:
    """One dataset of a mixture.

    Attributes:
        store: Store of its labels or its location, or an Ensemble, if any.
        inputs: Its data, as in ``Loader``. None: labels alone.
        rows: Rows to use, of the data if there is any, else of the store. None: all rows.
    """

    store: Store | Ensemble | Location | None
    inputs: Any = None
    rows: Rows | None = None


@dataclass(frozen=True)
class Mixture:
    """Several datasets with equal heads, by weight. A Mixture takes the place of a store in a Loader.

    Attributes:
        parts: Datasets of the mixture.
        weights: Share of the rows of each part, above 0, met to 1/4,096. None: in proportion to the parts' rows.
        rows: Rows of an epoch of the mixture. None: the sum of the parts' rows.

    Raises:
        InvalidArgument: No parts, or weights that are not finite numbers above 0.

    Example:
        >>> import softlabels as sl
        >>> mixture = sl.Mixture([sl.Part("labels-a"), sl.Part("labels-b")], weights=[3, 1])  # doctest: +SKIP
        >>> batch = next(iter(sl.loader(mixture, batch_size=256)))  # doctest: +SKIP
    """

    parts: Sequence[Part]
    weights: Sequence[float] | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidArgument("parts: got none; expected at least one part of a mixture")
        weights = self.weights
        if weights is not None and (len(weights) != len(self.parts) or not all(0 < w < math.inf for w in weights)):
            raise InvalidArgument(f"weights: got {list(weights)}; expected {len(self.parts)} finite numbers above 0")
        if self.rows is not None and self.rows < 1:
            raise InvalidArgument(f"rows: got {self.rows}; expected at least 1 row in an epoch of a mixture")


@dataclass(frozen=True)
class MixedRows:
    """Rows of a mixture that were read together.

    Attributes:
        columns: Rows of each part.
        parts: Part of each position, (n,).
    """

    columns: tuple[RowColumns, ...]
    parts: NDArray[np.int64]


class MixedDataset:
    """The examples of a mixture; see RowDataset.

    Args:
        mixture: Datasets and weights.
        options: Options of the loader, used for each part. The memory is divided equally.

    Raises:
        InvalidArgument: Parts that do not fit together, or invalid options.
        KeyMissing: Data rows without labels.
    """

    def __init__(self, mixture: Mixture, options: ExampleOptions) -> None:
        if options.by_length:
            raise InvalidArgument("by_length: orders the rows of one store, got a mixture. Leave by_length out")
        memory = options.memory // len(mixture.parts)
        # Parts have seeds of their own, so that parts of one size are not in step.
        stores = [opened(dataset.store) for dataset in mixture.parts]
        self._parts = [
            Examples(
                store,
                None if dataset.inputs is None else source_of(dataset.inputs, store),
                replace(options, seed=options.seed + number, memory=memory),
                rows=dataset.rows,
            )
            for number, (store, dataset) in enumerate(zip(stores, mixture.parts, strict=True))
        ]
        self.length = mixture.rows or sum(examples.length for examples in self._parts)
        weights = mixture.weights or [examples.length for examples in self._parts]
        self.interleave = Interleave(quotas_of(weights), options.seed)
        self.identity = self._identity(options.seed)
        self._priors: Priors = {}
        self._tensors = options.tensors
        self._check_equal_kinds()

    @property
    def row_bytes(self) -> int:
        """See RowDataset.row_bytes."""
        return max(examples.row_bytes for examples in self._parts)

    @property
    def statistics(self) -> ReadStatistics:
        """See RowDataset.statistics."""
        figures = [examples.statistics for examples in self._parts]
        return ReadStatistics(
            sum(figure.chunk_reads for figure in figures), sum(figure.bytes_held for figure in figures)
        )

    def divide_memory(self, processes: int) -> None:
        """See RowDataset.divide_memory."""
        for examples in self._parts:
            examples.divide_memory(processes)

    def iterate(self, epoch: int, position: int, *, endless: bool = False, block: int = 1) -> MixedIterator:
        """See RowDataset.iterate."""
        return MixedIterator(self._parts, self.interleave, epoch * self.length + position, block)

    def batch(self, span: Span, runs: list[MixedRows]) -> Batch:
        """See RowDataset.batch.

        Raises:
            LabelsMisaligned: An input is not the one that its labels were made from.
        """
        parts = np.concatenate([run.parts for run in runs])
        batches = [
            examples.batch(span, [run.columns[number] for run in runs]) for number, examples in enumerate(self._parts)
        ]
        # Rows of a part are in the order of its positions. Sorting positions by part, stably, gives that order for all
        # parts, and sorting the result again inverts it.
        back = np.argsort(np.argsort(parts, kind="stable"), kind="stable")
        batch = replace(concat_batches(batches, self._priors).take(back), parts=parts)
        return batch.tensors() if self._tensors else batch

    def _identity(self, seed: int) -> Identity:
        described = repr([(examples.identity, self.interleave.quotas) for examples in self._parts])
        first = self._parts[0].identity
        return replace(
            first,
            snapshot=blake3(repr([examples.identity.snapshot for examples in self._parts]).encode()).hexdigest(),
            rows=self.length,
            selection=blake3(described.encode()).hexdigest()[:32],
            seed=int(seed),
        )

    def _check_equal_kinds(self) -> None:
        """Concatenate no rows of every part, which raises now for what would not fit later."""
        nothing = Span(0, 0, 0, 0)
        batches = []
        for examples in self._parts:
            iterator = examples.iterate(0, 0)
            try:
                batches.append(examples.batch(nothing, [iterator.read(0)]))
            finally:
                iterator.close()
        for number, batch in enumerate(batches):
            if _kind(batch) != _kind(batches[0]):
                raise InvalidArgument(
                    f"parts: rows of one batch have equal heads, inputs of one shape and dtype, and hard labels or "
                    f"none, got {_kind(batch)} in part {number} and {_kind(batches[0])} in part 0"
                )
        concat_batches(batches, self._priors)


def _kind(batch: Batch) -> tuple[object, ...]:
    inputs = batch.inputs
    shape = (inputs.dtype.str, inputs.shape[1:]) if isinstance(inputs, np.ndarray) else type(inputs).__name__
    return "heads " + ", ".join(sorted(batch.targets)), shape, "hard labels" if batch.hard is not None else "no labels"


class MixedIterator:
    """An iterator over all parts of a mixture; see RowIterator.

    Args:
        parts: Examples of each part.
        interleave: Map from positions to parts.
        position: First position, counted over all epochs.
        block: Rows to copy at a time, of all parts together.
    """

    def __init__(self, parts: Sequence[Examples], interleave: Interleave, position: int, block: int) -> None:
        self._interleave = interleave
        self._position = position
        self._iterators: list[RowIterator] = []
        before = interleave.before(position).tolist()
        for examples, count, quota in zip(parts, before, interleave.quotas, strict=True):
            share = max(1, block * quota // BLOCK)
            epoch, start = divmod(count, examples.length)
            self._iterators.append(examples.iterate(epoch, start, endless=True, block=share))

    def skip(self, count: int) -> None:
        """See RowIterator.skip."""
        counts = self._interleave.before(self._position + count) - self._interleave.before(self._position)
        for iterator, rows in zip(self._iterators, counts.tolist(), strict=True):
            iterator.skip(rows)
        self._position += count

    def read(self, count: int) -> MixedRows:
        """See RowIterator.read."""
        parts = self._interleave.parts(self._position, self._position + count)
        counts = np.bincount(parts, minlength=len(self._iterators)).tolist()
        self._position += count
        columns: list[Any] = [iterator.read(rows) for iterator, rows in zip(self._iterators, counts, strict=True)]
        return MixedRows(tuple(columns), parts)

    def close(self) -> None:
        """See RowIterator.close."""
        for iterator in self._iterators:
            iterator.close()
