"""Tail priors on a device with the sums that losses need, which are computed once for a store rather than in each step.

A codebook of 64 priors over 50,000 classes is 12.8 MB; its logarithms alone take as long as a step of a small student.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softlabels.lru import LruCache

MAX_PRIORS = 8
"""Priors that are held, the last ones that were used."""

_PRIORS: LruCache[Hashable, tuple[Any, Priors]] = LruCache(MAX_PRIORS)


@dataclass(frozen=True)
class Priors:
    """M priors over C classes.

    Attributes:
        probs: (M, C) float32.
        log_probs: (M, C) float32.
        total: (M,) float64, sums of ``probs``.
        entropy: (M,) float64, sums of ``probs`` times their logs.
    """

    probs: Tensor
    log_probs: Tensor
    total: Tensor
    entropy: Tensor

    @staticmethod
    def of(probs: Tensor) -> Priors:
        """Return priors with their sums.

        Args:
            probs: (M, C) float32, above 0.

        Example:
            >>> Priors.of(torch.full((1, 4), 0.25)).total.item()
            1.0
        """
        exact = probs.double()
        # In float64, since losses subtract from it what listed classes have of it.
        return Priors(probs, probs.log(), exact.sum(dim=-1), torch.special.xlogy(exact, exact).sum(dim=-1))


def priors_of(values: Any, index: int, classes: int, device: torch.device) -> Priors:
    """Return the priors of labels at one temperature.

    Args:
        values: (T, C) or (T, M, C), an array or a tensor that does not change; None: one uniform prior.
        index: Index of the temperature.
        classes: Number of classes C.
        device: Device of the student's logits.

    Example:
        >>> priors_of(None, 0, 4, torch.device("cpu")).probs.tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    address = 0 if values is None else values.data_ptr() if isinstance(values, Tensor) else values.ctypes.data
    name = (address, 0 if values is None else tuple(values.shape), index, classes, device)
    held = _PRIORS.get(name)
    if held is None:
        if values is None:
            probs = torch.full((1, classes), 1 / classes, device=device)
        else:
            probs = torch.as_tensor(values[index], device=device).float().reshape(-1, classes)
            probs = probs.clamp_min(torch.finfo(torch.float32).tiny)
        # The original stays alive, so that no other prior gets its address.
        held = (values, Priors.of(probs))
        _PRIORS.put(name, held)
    return held[1]
