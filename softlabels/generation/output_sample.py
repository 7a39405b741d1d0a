"""A few rows of a teacher's outputs, and measures that tell sound outputs from broken ones.

Logits mean what their softmax means. So classes that carry no probability (ruled out by -infinity or by a large
negative number such as -1e4, -1e9 or the least float32) are left out of every measure, and tolerances are relative to
the spread of the classes that remain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from softlabels.generation.outputs import HeadOutput
from softlabels.labels import DISTRIBUTIONS
from softlabels.models import OutputHead

MAX_NATS = 50.0
"""Classes that lie further below the likeliest one have no probability worth looking at."""

POSITIONS = 4
"""Positions of a row that are looked at: pixels, or tokens."""

MANY_CLASSES = 4096
"""From this number of classes on, one position per row is looked at."""

FLAT = 1e-6
"""Spread of a constant output, relative to the size of its values."""


@dataclass(frozen=True)
class OutputSample:
    """Items (rows, or a few positions of each row) of one head.

    Attributes:
        name: Name of the head.
        head: The head.
        values: Values as the teacher returned them, (n, C) float64.
        rows: Position of each item's row in the batch, (n,).
    """

    name: str
    head: OutputHead
    values: NDArray[np.float64]
    rows: NDArray[np.int64]

    @property
    def is_distribution(self) -> bool:
        """True if the values are logits."""
        return self.head.kind in DISTRIBUTIONS

    @cached_property
    def relative(self) -> NDArray[np.float64]:
        """The logits less the greatest of their item, (n, C), NaN without probability; or the values."""
        if not self.is_distribution:
            return self.values
        # Relative to the largest value: the least float32 would swallow the others in a difference.
        shifted = self.values - np.max(self.values, axis=1, keepdims=True, initial=-np.inf)
        return np.where(shifted >= -MAX_NATS, shifted, np.nan)

    @cached_property
    def comparable(self) -> NDArray[np.float64]:
        """The values to compare, (n, C): log-probabilities, NaN without probability; or the values."""
        if not self.is_distribution:
            return self.values
        with np.errstate(divide="ignore"):
            normalizers = np.log(np.nansum(np.exp(self.relative), axis=1, keepdims=True))
        log_probs: NDArray[np.float64] = self.relative - normalizers
        return log_probs

    def scale(self) -> float:
        """Return the size of the largest value that has probability, at least 1; rounding errors grow with it."""
        values = np.abs(self.values[np.isfinite(self.relative)])
        return max(float(values.max(initial=0.0)), 1.0)

    def is_flat(self) -> bool:
        """Return True if every item gives each class that is not ruled out the same probability."""
        if not self.is_distribution:
            return False
        # The greatest is 0, and fmin is faster than nanmin. An item without probability has NaN, which is no spread.
        spread = -np.fmin.reduce(self.relative, axis=1)
        if (spread > FLAT * self.scale()).any():
            return False
        return bool((np.isfinite(self.relative).sum(axis=1) > 1).any())

    def is_constant(self) -> bool:
        """Return True if all items have the same output."""
        values = self.comparable
        finite = np.isfinite(values)
        if (finite != finite[:1]).any():
            return False
        spread = np.ptp(np.where(finite, values, 0.0), axis=0)
        scale = self.scale() if self.is_distribution else max(float(np.abs(values).max(initial=0.0)), 1e-30)
        return bool((spread <= FLAT * scale).all())

    def are_probabilities(self) -> bool:
        """Return True if the values are probabilities, so that another softmax would flatten them."""
        if not self.is_distribution or self.values.shape[1] < 2:
            return False
        sums_to_one = np.abs(self.values.sum(axis=1) - 1) <= 1e-2
        return bool((sums_to_one & (self.values >= 0).all(axis=1) & (self.values <= 1 + 1e-3).all(axis=1)).all())

    def difference(self, other: OutputSample) -> float:
        """Return the difference to another pass over the same items, relative to the spread of the values.

        Args:
            other: Sample of the same items.
        """
        values, other_values = self.comparable, other.comparable
        both = np.isfinite(values) & np.isfinite(other_values)
        apart = float(np.sqrt(np.mean((values - other_values)[both] ** 2))) if both.any() else 0.0
        return apart / max(self._spread(values), FLAT * self.scale())

    def _spread(self, values: NDArray[np.float64]) -> float:
        """Return the standard deviation of log-probabilities within items, of other values between items."""
        if self.is_distribution:
            centred = values - np.nanmean(values, axis=1, keepdims=True)
        else:
            centred = values - values.mean(axis=0)
        return float(np.sqrt(np.nanmean(centred**2)))


def sample_of(name: str, head: OutputHead, output: HeadOutput, rows: NDArray[np.int64] | None = None) -> OutputSample:
    """Return a sample of one head's output for a batch.

    Args:
        name: Name of the head.
        head: The head.
        output: Output of the batch.
        rows: Positions in the batch of the rows to look at, (n,); None for all.
    """
    rows = np.arange(len(output), dtype=np.int64) if rows is None else rows
    per_row = POSITIONS if head.classes < MANY_CLASSES else 1
    if output.lengths is not None:
        rows = rows[output.lengths[rows] > 0]
        lengths = output.lengths[rows]
        starts = (np.cumsum(output.lengths) - output.lengths)[rows]
        items, of_item = _spread_items(starts, lengths, per_row)
        values = output.values[items]
    elif output.values.ndim == 2:
        values, of_item = output.values[rows], rows
    else:
        flat = output.values[:].flatten(1, -2)
        positions = np.full(len(rows), flat.shape[1], np.int64)
        items, which = _spread_items(np.arange(len(rows), dtype=np.int64) * flat.shape[1], positions, per_row)
        values, of_item = flat[rows].flatten(0, 1)[items], rows[which]
        return OutputSample(name, head, values.double().cpu().numpy(), of_item)
    of_item = rows[of_item] if output.lengths is not None else of_item
    return OutputSample(name, head, values.double().cpu().numpy(), of_item)


def _spread_items(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return up to ``count`` evenly spread items of each row, and the index of the row of each."""
    shares = (np.arange(count) + 0.5) / count
    offsets = np.unique(
        np.stack([np.repeat(np.arange(len(starts)), count), (lengths[:, None] * shares).astype(np.int64).reshape(-1)]),
        axis=1,
    )
    return starts[offsets[0]] + offsets[1], offsets[0]
