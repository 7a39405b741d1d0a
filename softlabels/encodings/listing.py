"""What encodings that list classes share: choosing them where the logits are, and the mass of the rest (torch side).

A listing is padded: (B, K) logits and ids, descending, equal ones by ascending id; a row with fewer than K is filled up
with entries of logit -inf and id 0. One exponential a class and temperature is all that the tail costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from softlabels.encodings.logits import to_numpy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Listing:
    """Listed classes of a batch.

    Attributes:
        logits: (B, K) float32, descending; -inf where padded, or where the teacher ruled the class out.
        ids: (B, K) int64, 0 where padded.
        counts: (B,) int64, how many are no padding.
        rest: (B, C) float32, the logits with -inf where listed.
    """

    logits: Tensor
    ids: Tensor
    counts: Tensor
    rest: Tensor

    def measure(
        self, temperatures: tuple[float, ...], *, residual: bool
    ) -> tuple[Tensor, Tensor, NDArray[np.float64] | None]:
        """What is to be kept of the listing.

        Args:
            temperatures: at which to measure the unlisted mass.
            residual: also sum the unlisted probability over the rows.

        Returns:
            (B, K) log-probabilities at T = 1 over all classes; (B, T) log of the unlisted mass; (T, C) its sum or None.
        """
        tails, residuals, normalizer = [], [], None
        for temperature in temperatures:
            log_all, tail, unlisted = _tail(self.logits / temperature, self.rest / temperature, residual=residual)
            tails.append(tail)
            if unlisted is not None:
                residuals.append(unlisted)
            if temperature == 1:
                normalizer = log_all
        if normalizer is None:
            normalizer, _, _ = _tail(self.logits, self.rest, residual=False)
        summed = to_numpy(torch.stack(residuals)).astype(np.float64) if residuals else None
        return self.logits - normalizer[:, None], torch.stack(tails, dim=-1), summed

    def unlisted_probabilities(self, temperature: float) -> Tensor:
        """(B, C) float32 probability at ``temperature`` of classes that are not listed, 0 of those that are."""
        normalizer = torch.logaddexp(
            (self.logits / temperature).logsumexp(dim=-1), (self.rest / temperature).logsumexp(dim=-1)
        )
        return (self.rest / temperature - normalizer[:, None]).exp()


def likeliest(values: Tensor, k: int) -> Listing:
    """The ``k`` likeliest classes of each row of (B, C) logits."""
    top, ids = _descending(*values.topk(k, dim=-1))
    return Listing(top, ids, torch.full((len(values),), k), values.scatter(-1, ids, -torch.inf))


def at_least(values: Tensor, probability: float, *, argmax: bool = True) -> tuple[Listing, Tensor]:
    """The classes of (B, C) logits whose probability is ``probability`` or more.

    Args:
        values: the logits.
        probability: above 0.
        argmax: list the likeliest class in any case.

    Returns:
        The listing, and the (B,) logsumexp of all logits.
    """
    normalizer = values.logsumexp(dim=-1)
    chosen = values >= (normalizer + math.log(probability))[:, None]
    if argmax:
        chosen.scatter_(-1, values.argmax(dim=-1, keepdim=True), value=True)
    counts = chosen.sum(dim=-1)
    row, column = chosen.nonzero(as_tuple=True)
    place = torch.arange(len(row), device=values.device) - (counts.cumsum(0) - counts)[row]
    width = max(1, int(counts.max())) if len(counts) else 1
    top = values.new_full((len(values), width), -torch.inf)
    ids = torch.zeros_like(top, dtype=torch.int64)
    top[row, place], ids[row, place] = values[row, column], column
    # Padding keeps its place at the end: nothing that was chosen is -inf.
    top, order = top.sort(dim=-1, descending=True, stable=True)
    return Listing(top, ids.gather(-1, order), counts, values.masked_fill(chosen, -torch.inf)), normalizer


def _tail(top: Tensor, rest: Tensor, *, residual: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log of each row's normaliser and of its unlisted mass, and the sum over rows of unlisted probabilities.

    Args:
        top: (B, K) listed logits over T.
        rest: (B, C) logits over T, -inf where listed.
        residual: whether to sum.
    """
    shift = rest.amax(dim=-1, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, 0.0)
    weights = (rest - shift).exp()
    log_rest = weights.sum(dim=-1).log() + shift[:, 0]
    normalizer = torch.logaddexp(top.logsumexp(dim=-1), log_rest)
    unlisted = (shift[:, 0] - normalizer).exp() @ weights if residual else None
    return normalizer, log_rest - normalizer, unlisted


def _descending(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Values descending; equal ones by ascending id, so that equal rows are stored equally on any device."""
    by_id = ids.argsort(dim=-1)
    values, ids = values.gather(-1, by_id), ids.gather(-1, by_id)
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)
