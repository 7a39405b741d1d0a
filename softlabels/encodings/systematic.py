"""Where cumulated weights cross given values: the inner loop of drawing classes, without cumulating all of them.

Sums of segments of 128 weights are cumulated in float64; only the segment of each crossing is looked at class by class.
A segment's own sum is in float32 (in float64 it takes five times as long), so a class is met with its probability
times 1 + e, |e| < 2^-16 for any order of 128 additions; targets further apart than its weight so stretched meet no
class twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SEGMENT = 128
STRETCH = 2.0**-16
LEAST = 1e-300


@dataclass(frozen=True)
class Cumulated:
    """Weights, and where along them each segment ends.

    Attributes:
        by_segment: (B, segments, SEGMENT) float32.
        sums: (B, segments) float64, of each segment.
        ends: (B, segments) float64, cumulated.
    """

    by_segment: Tensor
    sums: Tensor
    ends: Tensor

    @property
    def total(self) -> Tensor:
        """(B, 1) float64."""
        return self.ends[:, -1:]


def cumulate(weights: Tensor) -> Cumulated:
    """Of (B, C) float32 weights, none negative."""
    rows, classes = weights.shape
    segments = -(-classes // SEGMENT)
    padded = weights
    if segments * SEGMENT != classes:
        padded = torch.nn.functional.pad(weights, (0, segments * SEGMENT - classes))
    by_segment = padded.view(rows, segments, SEGMENT)
    sums = by_segment.sum(dim=-1).double()
    return Cumulated(by_segment, sums, sums.cumsum(dim=-1))


def crossings(along: Cumulated, targets: Tensor) -> Tensor:
    """The class at which the cumulated weights reach each target, (B, n) int64; never one of weight 0.

    Args:
        along: the weights.
        targets: (B, n) float64, 0 up to the row's sum; beyond it the last class that has a weight.
    """
    rows, segments, _ = along.by_segment.shape
    targets = torch.minimum(targets.clamp_min(LEAST), along.total)
    # The first segment whose end reaches the target has a weight of its own, or the one before would have reached it.
    segment = torch.searchsorted(along.ends, targets).clamp_max(segments - 1)
    inside = along.by_segment[torch.arange(rows, device=targets.device)[:, None], segment]
    inside = inside.cumsum(dim=-1, dtype=torch.float64)
    sums = along.sums.gather(1, segment).clamp_min(LEAST)
    left = (targets - along.ends.gather(1, segment) + sums) * (inside[..., -1] / sums)
    left = torch.minimum(left.clamp_min(LEAST), inside[..., -1])
    return segment * SEGMENT + torch.searchsorted(inside, left[..., None])[..., 0]
