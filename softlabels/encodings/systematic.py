"""Where cumulated weights cross given values: the inner loop of drawing classes, without cumulating all of them.

Sums of segments of 128 weights are cumulated in float64; only the segment of each crossing is looked at class by class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SEGMENT = 128
LEAST = 1e-300


def crossings(weights: Tensor, targets: Tensor) -> Tensor:
    """The class at which the cumulated weights reach each target, (B, n) int64; never one of weight 0.

    Args:
        weights: (B, C) float32, not negative.
        targets: (B, n) float64, 0 up to the row's sum; beyond it the last class that has a weight.
    """
    rows, classes = weights.shape
    segments = -(-classes // SEGMENT)
    padded = weights
    if segments * SEGMENT != classes:
        padded = torch.nn.functional.pad(weights, (0, segments * SEGMENT - classes))
    by_segment = padded.view(rows, segments, SEGMENT)
    sums = by_segment.sum(dim=-1, dtype=torch.float64)
    ends = sums.cumsum(dim=-1)
    targets = torch.minimum(targets.clamp_min(LEAST), ends[:, -1:])
    # The first segment whose end reaches the target has a weight of its own, or the one before would have reached it.
    segment = torch.searchsorted(ends, targets).clamp_max(segments - 1)
    inside = by_segment[torch.arange(rows, device=weights.device)[:, None], segment].cumsum(dim=-1, dtype=torch.float64)
    left = targets - ends.gather(1, segment) + sums.gather(1, segment)
    left = torch.minimum(left.clamp_min(LEAST), inside[..., -1])
    return segment * SEGMENT + torch.searchsorted(inside, left[..., None])[..., 0]
