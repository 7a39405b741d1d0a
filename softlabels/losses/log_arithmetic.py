"""Arithmetic of logarithms of probabilities, some of which are 0."""

from __future__ import annotations

import torch
from torch import Tensor

FINITE = -1e30
"""Stand-in for a log-probability of -inf that is multiplied by 0."""


def logsumexp(logs: Tensor) -> Tensor:
    """Return the log of the sum of exponentials over the last axis; -inf, with gradient 0, where every entry is.

    Example:
        >>> logsumexp(torch.tensor([-torch.inf, -torch.inf])).item()
        -inf
    """
    top = logs.detach().amax(dim=-1)
    shift = torch.where(top.isneginf(), 0.0, top)
    total = (logs - shift[..., None]).exp().sum(dim=-1)
    return torch.where(total == 0, -torch.inf, torch.where(total == 0, 1.0, total).log() + shift)


def times(weights: Tensor, logs: Tensor) -> Tensor:
    """Return weights * logs; 0 where the weight is, whatever the log.

    Example:
        >>> times(torch.tensor([0.0, 2.0]), torch.tensor([-torch.inf, -1.0])).tolist()
        [0.0, -2.0]
    """
    return torch.where(weights == 0, 0.0, weights * logs)


def dot(weights: Tensor, logs: Tensor) -> Tensor:
    """Return the sum over the last axis of weights * logs; a weight of 0 adds 0, whatever the log.

    Example:
        >>> dot(torch.tensor([0.0, 2.0]), torch.tensor([-torch.inf, -1.0])).item()
        -2.0
    """
    return times(weights, logs).sum(dim=-1)


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012)."""
    return torch.where(x > -0.6931, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
