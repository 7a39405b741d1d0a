"""Crossings of cumulated weights with given values: the inner loop of drawing classes, without cumulating all of them.

Sums of segments of 128 weights are cumulated in float64, and only the segment of each crossing is searched class by
class. A segment's own sum is in float32 (in float64 it takes five times as long), so a class is met with its
probability times 1 + e, |e| < 2^-16 for any order of 128 additions. Targets further apart than a weight so stretched
meet no class twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from softlabels.encodings.logits import true_places

if TYPE_CHECKING:
    from torch import Tensor

SEGMENT = 128
"""Weights per segment."""
STRETCH = 2.0**-16
"""Bound of the relative error of a class's probability."""
MIN_SUM = 1e-300
"""Bound of targets and sums from below, so that a target of 0 meets a class that has a weight."""


@dataclass(frozen=True)
class Cumulated:
    """Weights with the cumulated sums of their segments.

    Attributes:
        by_segment: (B, segments, SEGMENT) float32 weights.
        sums: (B, segments) float64, sum of each segment.
        ends: (B, segments) float64, sum of all weights up to the end of each segment.
    """

    by_segment: Tensor
    sums: Tensor
    ends: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of each row, (B, 1) float64."""
        return self.ends[:, -1:]

    def take(self, least: float) -> tuple[Tensor, Tensor, Tensor, Cumulated]:
        """Take the weights of ``least`` or more out; the others are cumulated without them.

        Only segments whose sum reaches ``least`` are searched: a sum of rounded numbers is never below one of them.

        Args:
            least: Least weight to take, above 0.

        Returns:
            Row, class and weight of each that is taken, (n,) each, by row and class; and the rest.
        """
        segments = self.by_segment.view(-1, SEGMENT)
        searched = true_places(self.sums >= least)
        inside = segments.index_select(0, searched)
        within = true_places(inside >= least)
        weights = inside.view(-1).index_select(0, within)
        inside.view(-1).index_fill_(0, within, 0.0)
        index = within // SEGMENT
        segment = searched.index_select(0, index)
        column = within - index * SEGMENT
        segments.view(-1).index_fill_(0, segment * SEGMENT + column, 0.0)
        self.sums.view(-1).index_copy_(0, searched, inside.sum(dim=-1).double())
        rest = Cumulated(self.by_segment, self.sums, self.sums.cumsum(dim=-1))
        count = self.sums.shape[1]
        row = segment // count
        return row, (segment - row * count) * SEGMENT + column, weights, rest


def cumulate(weights: Tensor) -> Cumulated:
    """Cumulate (B, C) float32 weights, none of them negative."""
    rows, classes = weights.shape
    segments = -(-classes // SEGMENT)
    padded = weights
    if segments * SEGMENT != classes:
        padded = torch.nn.functional.pad(weights, (0, segments * SEGMENT - classes))
    by_segment = padded.view(rows, segments, SEGMENT)
    sums = by_segment.sum(dim=-1).double()
    return Cumulated(by_segment, sums, sums.cumsum(dim=-1))


def crossings(cumulated: Cumulated, targets: Tensor, is_drawn: Tensor | None = None) -> Tensor:
    """Return the class at which the cumulated weights reach each target; never one of weight 0.

    Args:
        cumulated: Weights.
        targets: (B, n) float64, 0 up to the row's sum. A target beyond it meets the last class that has a weight.
        is_drawn: (B, n) bool, True for targets to look up; None: all.

    Returns:
        Classes, (B, n) int64; with ``is_drawn`` those of the targets that are looked up, (m,), row by row.
    """
    rows, segments, _ = cumulated.by_segment.shape
    targets = torch.minimum(targets.clamp_min(MIN_SUM), cumulated.total)
    # The first segment whose end reaches the target has a weight of its own, or the one before would have reached it.
    segment = torch.searchsorted(cumulated.ends, targets).clamp_max(segments - 1)
    starts = torch.arange(0, rows * segments, segments, device=targets.device)[:, None]
    flat, targets = (segment + starts).view(-1), targets.reshape(-1)
    drawn = None if is_drawn is None else true_places(is_drawn)
    if drawn is not None:
        flat, targets = flat.index_select(0, drawn), targets.index_select(0, drawn)
    inside = cumulated.by_segment.view(-1, SEGMENT).index_select(0, flat).cumsum(dim=-1, dtype=torch.float64)
    sums = cumulated.sums.view(-1).index_select(0, flat).clamp_min(MIN_SUM)
    ends = cumulated.ends.view(-1).index_select(0, flat)
    # The target relative to the segment's start, on the scale of the float64 sum of its weights.
    offset = (targets - ends + sums) * (inside[:, -1] / sums)
    offset = torch.minimum(offset.clamp_min(MIN_SUM), inside[:, -1])
    classes = flat % segments * SEGMENT + torch.searchsorted(inside, offset[:, None])[:, 0]
    return classes.view_as(segment) if drawn is None else classes
