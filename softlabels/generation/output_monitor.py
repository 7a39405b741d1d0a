"""Checks of a few rows of later batches: a teacher may break after the first ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import TeacherRejected
from softlabels.generation.batches import Batch
from softlabels.generation.output_sample import OutputSample, sample_of
from softlabels.labels import DISTRIBUTIONS
from softlabels.models import OutputHead

ROWS = 8
"""Rows of a batch that are looked at."""

ALL_BATCHES = 16
"""The first batches are all checked, later ones every so many."""


class OutputMonitor:
    """Checks of the outputs of a run, batch by batch.

    Args:
        heads: Heads of the teacher; only distributions are checked, because numbers may well stay the same.
    """

    def __init__(self, heads: Mapping[str, OutputHead]) -> None:
        self._heads = {name: head for name, head in heads.items() if head.kind in DISTRIBUTIONS}
        self._batches = 0
        self._previous: dict[str, NDArray[np.float64]] = {}
        self._previous_keys = np.zeros((0, 16), np.uint8)

    def check(self, batch: Batch) -> None:
        """Raise if the outputs of a batch cannot be labels.

        Args:
            batch: Batch with its outputs.

        Raises:
            TeacherRejected: All rows are flat, or the outputs are those of the batch before.
        """
        self._batches += 1
        # The batch before one that is checked is looked at too, to compare them.
        phase = self._batches % ALL_BATCHES
        if (self._batches > ALL_BATCHES and phase not in {0, 1}) or not batch.outputs:
            return
        count = len(batch.to_label)
        looked_at = min(ROWS, count)
        rows = np.arange(looked_at) * (count - 1) // max(1, looked_at - 1)
        keys = batch.keys if batch.copied is None else batch.keys[batch.copied < 0]
        for name, head in self._heads.items():
            sample = sample_of(name, head, batch.outputs[name], rows)
            if len(sample.values) > 1:
                self._check_flat(sample, batch)
                self._check_stale(sample, batch, keys[rows])
            self._previous[name] = sample.values
        self._previous_keys = keys[rows]

    def _check_flat(self, sample: OutputSample, batch: Batch) -> None:
        if sample.is_flat():
            raise TeacherRejected(
                f"teacher: head {sample.name!r} gives every class the same logit in rows {batch.rows[0]:,} to "
                f"{batch.rows[-1]:,}, unlike before. Committed units stay in the store. Use gate=False to label anyway"
            )

    def _check_stale(self, sample: OutputSample, batch: Batch, keys: NDArray[np.uint8]) -> None:
        """Raise if unlike rows have the outputs that the batch before had, bit by bit."""
        before = self._previous.get(sample.name)
        if before is None or not np.array_equal(before, sample.values) or (sample.values == sample.values[0]).all():
            return
        if not (keys == self._previous_keys).all(axis=1).any():
            raise TeacherRejected(
                f"teacher: head {sample.name!r} returns the outputs of the batch before for rows {batch.rows[0]:,} to "
                f"{batch.rows[-1]:,}. Committed units stay in the store. Use gate=False to label anyway"
            )
