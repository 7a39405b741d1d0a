"""Batches of rows on their way from the data through the teacher to the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import UnreadableRow
from softlabels.generation.outputs import HeadOutput, of_predictions
from softlabels.generation.row_plan import RowPlan
from softlabels.sources import Ragged
from softlabels.store import Descriptor, RowCopier, StoreWriter

PREFETCHED = 2
"""Batches of inputs that are read ahead of the teacher."""


class BadRow(NamedTuple):
    """A row that cannot be labelled.

    Attributes:
        row: Number of the row in the store.
        key: Key of the row, 32 hexadecimal digits.
        reason: Why it cannot be labelled.
    """

    row: int
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one unit.

    Attributes:
        unit: Unit of the rows.
        rows: Row numbers in the store, (B,), ascending.
        keys: Keys of the rows, (B, 16) uint8.
        views: View of each row, (B,) uint32.
        last: If True, the unit is complete after this batch.
        copied: Row of the stores to copy from for each row, (B,), -1 for a row that the teacher labels; None if the
            teacher labels all.
        outputs: By head the outputs of the rows that the teacher labels; empty before it has run.
        tokens: Token rows that the teacher labels, for a store that holds them; None for other stores.
        skipped: Rows that were taken out of the batch because they cannot be labelled, with the reason.
    """

    unit: int
    rows: NDArray[np.int64]
    keys: NDArray[np.uint8]
    views: NDArray[np.uint32]
    last: bool
    copied: NDArray[np.int64] | None = None
    outputs: Mapping[str, HeadOutput] = field(default_factory=dict)
    tokens: Ragged | None = None
    skipped: tuple[BadRow, ...] = ()

    @property
    def to_label(self) -> NDArray[np.int64]:
        """The rows that the teacher labels."""
        return self.rows if self.copied is None else self.rows[self.copied < 0]

    def select(self, selected: NDArray[np.bool_]) -> Batch:
        """Return the batch with some of its rows, before the teacher has labelled it.

        Args:
            selected: True for each row to keep, (B,).
        """
        return replace(
            self,
            rows=self.rows[selected],
            keys=self.keys[selected],
            views=self.views[selected],
            copied=None if self.copied is None else self.copied[selected],
        )

    def labelled(self, predictions: Mapping[str, Any], inputs: Any, descriptor: Descriptor) -> Batch:
        """Return the batch with the outputs of the teacher, and with its tokens if the store holds them.

        Args:
            predictions: Outputs of the teacher by head.
            inputs: Inputs of the rows that the teacher labels.
            descriptor: Descriptor of the store.
        """
        tokens = inputs if descriptor.inputs is not None and isinstance(inputs, Ragged) else None
        return replace(self, outputs=of_predictions(predictions, descriptor.heads, inputs), tokens=tokens)


def batches_of(
    plan: RowPlan, store: StoreWriter, units: Iterable[int], batch_size: int, copier: RowCopier | None
) -> Iterator[Batch]:
    """Yield the batches of units; a batch never spans two units.

    Args:
        plan: Rows of the store.
        store: The store.
        units: Units to label, in order.
        batch_size: Rows of a batch.
        copier: Stores that rows are copied from, if any.
    """
    for unit in units:
        rows = store.descriptor.unit_range(unit)
        for start in range(rows.start, rows.stop, batch_size):
            stop = min(start + batch_size, rows.stop)
            keys, views = plan.names(start, stop)
            yield Batch(
                unit=unit,
                rows=np.arange(start, stop, dtype=np.int64),
                keys=keys,
                views=views,
                last=stop == rows.stop,
                copied=None if copier is None else copier.find(keys, views),
            )


def prefetch_inputs(plan: RowPlan, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Any]]:
    """Yield each batch with its inputs, which a thread reads while the teacher runs; None if all rows are copied.

    In place of inputs that cannot be read, the error is yielded.

    Args:
        plan: Rows of the store.
        batches: Batches in order.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="softlabels-inputs") as pool:
        waiting: deque[tuple[Batch, Future[Any] | None]] = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(plan.inputs, batch.to_label) if len(batch.to_label) else None))
            if len(waiting) > PREFETCHED:
                yield _resolved(*waiting.popleft())
        while waiting:
            yield _resolved(*waiting.popleft())


def _resolved(batch: Batch, inputs: Future[Any] | None) -> tuple[Batch, Any]:
    if inputs is None:
        return batch, None
    error = inputs.exception()
    return batch, error if isinstance(error, UnreadableRow) else inputs.result()
