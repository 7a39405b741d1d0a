"""Rows that cannot be labelled, narrowed down from the batch in which reading or the teacher fails.

A source names the rows that it cannot read. A teacher fails for a batch, so the batch is halved until the rows are
known that it fails on. The other rows keep their labels, and the run ends only if more rows are bad than
``Settings.skip_bad`` allows. The limit is that of the store: rows that other processes and earlier runs skipped count,
as far as their units are committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softlabels.errors import InvalidLogits, ModelFailed, TooManyBadRows, UnreadableRow
from softlabels.generation.batches import BadRow, Batch
from softlabels.generation.engine import Work
from softlabels.generation.length_groups import predict_outputs, predict_rows
from softlabels.generation.outputs import Outputs
from softlabels.generation.row_plan import RowPlan
from softlabels.labels import DISTRIBUTIONS
from softlabels.models import Model
from softlabels.store import StoreWriter
from softlabels.store.format.skipped_rows import MAX_REASON_LENGTH, MAX_SKIPPED

MAX_NAMED = 5
"""Bad rows that a message names."""

FAILURES = (UnreadableRow, ModelFailed, InvalidLogits)
"""Errors of single rows; anything else ends a run."""


class CommittedBadRows:
    """Bad rows of the units that any process has committed to a store. Each record is read once.

    Args:
        store: The store.
    """

    def __init__(self, store: StoreWriter) -> None:
        self._store = store
        self._rows: dict[int, BadRow] = {}
        self._seen: set[int] = set()

    def refresh(self) -> Mapping[int, BadRow]:
        """Read the records that are new, and return the bad rows of all by their number.

        Raises:
            StoreCorrupt: A record is damaged.
        """
        new = [unit for unit in self._store.committed_units() if unit not in self._seen]
        with ThreadPoolExecutor(self._store.storage.read_threads, thread_name_prefix="softlabels-records") as pool:
            for rows in pool.map(self._bad_rows, new):
                self._rows.update(rows)
        self._seen.update(new)
        return self._rows

    def _bad_rows(self, unit: int) -> dict[int, BadRow]:
        first = self._store.descriptor.unit_range(unit).start
        skipped = self._store.record(unit).skipped
        return {first + row: BadRow(first + row, key, reason) for row, key, reason in skipped}


class BatchLabeller:
    """The teacher over batches, without the rows that it cannot label.

    Args:
        work: The work.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._bad: list[BadRow] = []
        self._committed = CommittedBadRows(work.store)
        self._elsewhere: Mapping[int, BadRow] = {}

    def label(self, batch: Batch, inputs: Any) -> Iterator[Batch]:
        """Yield the rows of a batch with their outputs, in one batch if all of them can be labelled.

        Args:
            batch: The batch.
            inputs: Inputs of its rows; None if all of them are copied; the error if they cannot be read.

        Raises:
            TooManyBadRows: More rows are bad than may be skipped, in the store or in a unit.
            UnreadableRow: A row cannot be read, and none may be skipped.
            ModelFailed: As above, of the teacher.
        """
        if self._work.settings.skip_bad is None:
            yield self._labelled(batch, inputs)
            return
        before = len(self._bad)
        yield from (replace(labelled, last=False) for labelled in self._attempt(batch, inputs))
        # What ends the unit is a batch of no rows, because the last row may be a bad one.
        nothing = batch.select(np.zeros(len(batch.rows), bool))
        yield replace(nothing, skipped=tuple(self._bad[before:]))

    def _labelled(self, batch: Batch, inputs: Any) -> Batch:
        if isinstance(inputs, UnreadableRow):
            raise inputs
        if not len(batch.to_label):
            return batch
        if inputs is None:
            inputs = self._work.plan.inputs(batch.to_label)
        predictions = predict_rows(self._work.teacher, inputs)
        return batch.labelled(predictions, inputs, self._work.store.descriptor)

    def _attempt(self, batch: Batch, inputs: Any) -> Iterator[Batch]:
        """Yield the rows of a batch that can be labelled, and note the others."""
        try:
            labelled = self._labelled(batch, inputs)
        except FAILURES as error:
            yield from self._narrow(batch, error)
            return
        bad = _not_finite(labelled.outputs, self._work.teacher, len(batch.to_label))
        if not bad.any():
            yield labelled
            return
        for row in batch.to_label[bad]:
            self._note(batch, int(row), "the output of the teacher is not finite")
        yield from self._attempt(batch.select(~np.isin(batch.rows, batch.to_label[bad])), None)

    def _narrow(self, batch: Batch, error: Exception) -> Iterator[Batch]:
        """Yield the rows of a batch that failed which can be labelled, and note the others."""
        rows = batch.to_label
        reasons = self._unreadable(rows, error) if isinstance(error, UnreadableRow) else {}
        if len(rows) == 1:
            reasons = {int(rows[0]): _reason(error)}
        if reasons:
            for row, reason in reasons.items():
                self._note(batch, row, reason)
            rest = batch.select(~np.isin(batch.rows, list(reasons)))
            if len(rest.rows):
                yield from self._attempt(rest, None)
            return
        is_first = batch.rows < rows[len(rows) // 2]
        yield from self._attempt(batch.select(is_first), None)
        yield from self._attempt(batch.select(~is_first), None)

    def _unreadable(self, rows: NDArray[np.int64], error: UnreadableRow) -> dict[int, str]:
        """Return the rows that an error names, with a reason each, if they cannot be read by themselves either."""
        reasons = {}
        for row in rows[np.isin(self._work.plan.examples(rows), np.array(error.rows, np.int64))]:
            try:
                self._work.plan.inputs(np.array([row]))
            except UnreadableRow as own_error:
                reasons[int(row)] = _reason(own_error)
        return reasons

    def _note(self, batch: Batch, row: int, reason: str) -> None:
        key = batch.keys[batch.rows == row][0].tobytes().hex()
        unit_rows = self._work.store.descriptor.unit_rows
        if not any(bad.row // unit_rows == batch.unit for bad in self._bad):
            self._elsewhere = self._committed.refresh()
        self._bad.append(BadRow(row, key, " ".join(reason.split())[:MAX_REASON_LENGTH]))
        check_bad_rows([*self._elsewhere.values(), *self._bad], self._work.settings.skip_bad)
        in_unit = sum(bad.row // unit_rows == batch.unit for bad in self._bad)
        if in_unit > MAX_SKIPPED:
            raise TooManyBadRows(
                f"data: unit {batch.unit} has too many bad rows, got {in_unit:,}; expected at most {MAX_SKIPPED:,}. "
                f"{_advice(self._bad[-MAX_NAMED:])}"
            )


def check_bad_rows(bad: Iterable[BadRow], limit: int | None) -> None:
    """Raise if more rows are bad than may be skipped.

    Args:
        bad: Rows that cannot be labelled.
        limit: Number of them that is allowed.

    Raises:
        TooManyBadRows: There are more; names them.

    Example:
        >>> check_bad_rows([BadRow(7, "", "truncated")], 1)
    """
    rows = sorted({bad_row.row: bad_row for bad_row in bad}.values())
    if limit is not None and len(rows) > limit:
        more = ", ..." if len(rows) > MAX_NAMED else ""
        raise TooManyBadRows(
            f"data: too many bad rows, got {len(rows):,}; expected at most {limit:,} (skip_bad=). "
            f"{_advice(rows[:MAX_NAMED])}{more}"
        )


def usable_rows(plan: RowPlan, teacher: Model, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that can be read and for which the teacher's outputs can be stored.

    Args:
        plan: Rows of the store.
        teacher: The model.
        rows: Row numbers, (n,).
    """
    if not len(rows):
        return rows
    try:
        outputs = predict_outputs(teacher, plan.inputs(rows))
    except FAILURES:
        if len(rows) == 1:
            return rows[:0]
        middle = len(rows) // 2
        return np.concatenate([usable_rows(plan, teacher, half) for half in (rows[:middle], rows[middle:])])
    return rows[~_not_finite(outputs, teacher, len(rows))]


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, UnreadableRow) else "") or str(error)


def _not_finite(outputs: Outputs, teacher: Model, count: int) -> NDArray[np.bool_]:
    """Return True for each row whose outputs cannot be stored; -inf rules out a class, if another remains."""
    bad = np.zeros(count, bool)
    for name, output in outputs.items():
        values = output.values
        if not isinstance(values, torch.Tensor):
            continue  # logits in slices would have to be computed twice
        finite = values.isfinite()
        if name in teacher.heads and teacher.heads[name].kind in DISTRIBUTIONS:
            refused = (~finite & ~values.isneginf()).any(dim=-1) | ~finite.any(dim=-1)
        else:
            refused = ~finite.all(dim=-1)
        entries = np.flatnonzero(refused.reshape(len(values), -1).any(dim=1).cpu().numpy())
        ends = np.arange(1, len(bad) + 1) if output.lengths is None else np.cumsum(output.lengths)
        bad[np.searchsorted(ends, entries, side="right")] = True
    return bad


def _advice(bad: Iterable[BadRow]) -> str:
    named = ", ".join(f"row {row} ({reason})" for row, _, reason in bad)
    return f"Committed units stay in the store. Correct the data, or allow more of them: {named}"
