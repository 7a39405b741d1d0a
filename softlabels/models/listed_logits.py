"""Log-probabilities of a few classes per position, from a teacher that shows no others.

A server returns the likeliest classes alone. Their log-probabilities are exact, and so is the mass that they leave.
Where dense logits are needed, that mass is spread evenly over the other classes. Encodings that list no more classes
than the server returned store nothing of that spread.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softlabels.models.sliced_logits import SlicedLogits

MIN_GAP = 1e-6
"""Gap in nats by which an unlisted class stays below the K likeliest, so that rounding never lists it."""


class ListedLogits(SlicedLogits):
    """Logits (P, C) of positions of which the listed classes alone are known.

    Args:
        ids: Listed classes of each position, (P, M) int64; the first K are the likeliest.
        log_probs: Their log-probabilities, (P, M) float64; -infinity at entries that only pad a row.
        classes: Number of classes C.
        count: Number K of the likeliest classes.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.3]]).double().log()
        >>> logits = ListedLogits(torch.tensor([[2, 0]]), log_probs, classes=4, count=2)
        >>> logits[:].softmax(dim=-1)
        tensor([[0.3000, 0.1000, 0.5000, 0.1000]])
    """

    def __init__(self, ids: Tensor, log_probs: Tensor, *, classes: int, count: int) -> None:
        # The states of the base class are the listed classes, ids first: float64 holds every id exactly.
        width = ids.shape[1]
        super().__init__(
            torch.cat([ids.double(), log_probs.double()], dim=1),
            lambda states: spread(states[:, :width].long(), states[:, width:], classes=classes, count=count),
            classes=classes,
        )
        self.count = count


def spread(ids: Tensor, log_probs: Tensor, *, classes: int, count: int) -> Tensor:
    """Return logits with the unlisted mass spread evenly over the unlisted classes, (P, C) float32.

    Args:
        ids: As for ListedLogits.
        log_probs: As for ListedLogits.
        classes: Number of classes C.
        count: Number K of the likeliest classes.
    """
    listed = log_probs > -math.inf
    unlisted = (classes - listed.sum(dim=1)).clamp(min=1)
    rest = (1 - log_probs.exp().sum(dim=1)).clamp(min=0)
    even = torch.minimum((rest / unlisted).log(), log_probs[:, count - 1] - MIN_GAP)
    logits = even.float()[:, None].repeat(1, classes)
    rows = torch.arange(len(ids))[:, None].expand_as(ids)
    logits[rows[listed], ids[listed]] = log_probs[listed].float()
    return logits
