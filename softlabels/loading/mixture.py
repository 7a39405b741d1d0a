"""Several datasets in one stream, each row from one of them, by weight.

Rows are dealt in blocks of 4,096: of every block each part has the same whole number of rows, as its weight says, at
places that (seed, block) alone decide. So the weights are met exactly in every block, to 1/4,096, and how many rows of
a part come before any position is a product and one block's count: every position can be reached directly. Each part is
walked in its own order, epoch after epoch of its own: none of its rows comes again before all have come.
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
from softlabels.loading.collate.concat import Priors, join_batches
from softlabels.loading.ensemble import Ensemble
from softlabels.loading.examples import Examples, RowIterator
from softlabels.loading.join import Rows
from softlabels.loading.order.interleave import BLOCK, Interleave, quotas_of
from softlabels.loading.order.steps import Span
from softlabels.loading.state import Identity
from softlabels.sources import Source
from softlabels.store import Store


@dataclass(frozen=True)
class Part:
    """One dataset of a mixture.

    Attributes:
        store: where its soft labels are, or an Ensemble.
        inputs: its data; None: labels alone.
        rows: of the data (of the store, without data) to use; None: all.
    """

    store: Store | Ensemble | None
    inputs: Source | None = None
    rows: Rows | None = None


@dataclass(frozen=True)
class Mixture:
    """Several datasets with the same heads, by weight. Takes the place of a store in a Loader.

    Attributes:
        parts: the datasets.
        weights: shares of the rows, above 0, met to 1/4,096; None: by the parts' numbers of rows.
        rows: of an epoch of the mixture; None: as many as the parts have together.

    Raises:
        InvalidArgument: no parts, a weight that is none, or one too small to have a row in 4,096.
    """

    parts: Sequence[Part]
    weights: Sequence[float] | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidArgument("a mixture needs a part")
        weights = self.weights
        if weights is not None and (len(weights) != len(self.parts) or not all(0 < w < math.inf for w in weights)):
            raise InvalidArgument(f"a mixture needs a weight above 0 for each of its {len(self.parts)} parts")
        if self.rows is not None and self.rows < 1:
            raise InvalidArgument(f"an epoch of a mixture has rows; {self.rows} were asked for")


class MixedDataset:
    """The items of a mixture; options are those of Loader, for each part. See RowDataset.

    Raises:
        InvalidArgument: parts that do not fit together, or options that cannot be meant.
        KeyMissing: data without labels.
    """

    def __init__(
        self, mixture: Mixture, *, seed: int, memory: int, by_length: bool, tensors: bool, **options: Any
    ) -> None:
        if by_length:
            raise InvalidArgument("by_length orders the rows of one store; a mixture has several")
        share = memory // len(mixture.parts)
        # Parts have seeds of their own, lest those of one size go in step.
        self.parts = [
            Examples(part.store, part.inputs, rows=part.rows, seed=seed + number, memory=share, **options)
            for number, part in enumerate(mixture.parts)
        ]
        self.length = mixture.rows or sum(part.length for part in self.parts)
        weights = mixture.weights or [part.length for part in self.parts]
        self.deal = Interleave(quotas_of(weights), seed)
        self.identity = self._identity(seed)
        self._priors: Priors = {}
        self._tensors = tensors
        self._check_alike()

    def row_bytes(self) -> int:
        """See RowDataset.row_bytes."""
        return max(part.row_bytes() for part in self.parts)

    def divide_memory(self, processes: int) -> None:
        """See RowDataset.divide_memory."""
        for part in self.parts:
            part.divide_memory(processes)

    def walk(self, epoch: int, position: int, *, endless: bool = False, block: int = 1) -> MixedIterator:
        """See RowDataset.walk."""
        return MixedIterator(self.parts, self.deal, epoch * self.length + position, block)

    def batch(self, span: Span, pieces: list[Dealt]) -> Batch:
        """See RowDataset.batch.

        Raises:
            LabelsMisaligned: an input is not the one its labels were made from.
        """
        parts = np.concatenate([piece.parts for piece in pieces])
        made = [part.batch(span, [piece.taken[number] for piece in pieces]) for number, part in enumerate(self.parts)]
        # Rows of a part lie in the order of its positions, so the places of all parts invert the order by part.
        back = np.argsort(np.argsort(parts, kind="stable"), kind="stable")
        batch = replace(join_batches(made, self._priors).take(back), parts=parts)
        return batch.tensors() if self._tensors else batch

    def _identity(self, seed: int) -> Identity:
        told = repr([(part.identity, self.deal.quotas) for part in self.parts])
        first = self.parts[0].identity
        return replace(
            first,
            snapshot=blake3(repr([part.identity.snapshot for part in self.parts]).encode()).hexdigest(),
            rows=self.length,
            selection=blake3(told.encode()).hexdigest()[:32],
            seed=seed,
        )

    def _check_alike(self) -> None:
        """Join no rows of every part, which says now what would not fit later."""
        none = Span(0, 0, 0, 0)
        walks = [part.walk(0, 0) for part in self.parts]
        try:
            empty = [part.batch(none, [walk.take(0)]) for part, walk in zip(self.parts, walks, strict=True)]
        finally:
            for walk in walks:
                walk.close()
        for number, batch in enumerate(empty):
            mine, theirs = _shape(empty[0]), _shape(batch)
            if mine != theirs:
                raise InvalidArgument(
                    f"part {number} of the mixture gives {theirs}, where part 0 gives {mine}; rows of one batch have "
                    "the same heads, inputs of one shape and type, and hard labels all or none"
                )
        join_batches(empty, self._priors)


def _shape(batch: Batch) -> tuple[object, ...]:
    inputs = batch.inputs
    shape = (inputs.dtype.str, inputs.shape[1:]) if isinstance(inputs, np.ndarray) else type(inputs).__name__
    return "heads " + ", ".join(sorted(batch.targets)), shape, "hard labels" if batch.hard is not None else "no labels"


@dataclass(frozen=True)
class Dealt:
    """What was taken of each part, and which part each position belongs to."""

    taken: tuple[Any, ...]
    parts: NDArray[np.int64]


class MixedIterator:
    """Walks through all parts of a mixture; see Walk.

    Args:
        parts: of it.
        deal: positions to them.
        at: the first position, counted over all epochs.
        block: rows to copy at a time, of all parts together.
    """

    def __init__(self, parts: Sequence[Examples], deal: Interleave, at: int, block: int) -> None:
        self._deal = deal
        self._at = at
        self._walks: list[RowIterator] = []
        for part, count, quota in zip(parts, deal.before(at).tolist(), deal.quotas, strict=True):
            share = max(1, block * quota // BLOCK)
            self._walks.append(part.walk(*divmod(count, part.length), endless=True, block=share))

    def skip(self, number: int) -> None:
        """See Walk.skip."""
        counts = self._deal.before(self._at + number) - self._deal.before(self._at)
        for walk, count in zip(self._walks, counts.tolist(), strict=True):
            walk.skip(count)
        self._at += number

    def take(self, number: int) -> Dealt:
        """See Walk.take."""
        parts = self._deal.parts(self._at, self._at + number)
        counts = np.bincount(parts, minlength=len(self._walks)).tolist()
        self._at += number
        return Dealt(tuple(walk.take(count) for walk, count in zip(self._walks, counts, strict=True)), parts)

    def close(self) -> None:
        """See Walk.close."""
        for walk in self._walks:
            walk.close()
