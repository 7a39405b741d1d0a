"""Choice of the classes to list, where the logits are, and the mass of the rest (torch side).

A listing is padded: (B, K) logits and ids, descending, equal ones by ascending id. A row with fewer than K is filled up
with entries of logit -inf and id 0. Choosing and the tail cost one exponential per class and temperature.

Logits are taken relative to the row's greatest. So teachers whose logits lie around -10,000, or that rule classes out
by float32's least number, lose no digits, and nothing overflows. A row of a language model's logits is long, and each
pass over it, and each fresh page it is written to, costs as much as the exponential: operations work in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from softlabels.encodings.logits import to_numpy, true_places
from softlabels.encodings.systematic import SEGMENT
from softlabels.encodings.tail import exposure

if TYPE_CHECKING:
    from torch import Tensor

MIN_REST = 1e-30
"""Unlisted mass, relative to the likeliest class, below which float32 loses it and it is summed on its own scale."""


class Masses(NamedTuple):
    """Distribution of a row's probability at one temperature.

    Attributes:
        normalizer: (B,) logsumexp of all logits over T.
        log_tail: (B,) log of the unlisted probability, -inf where there is none.
        weights: (B, C) numbers in proportion to the unlisted probabilities, 0 for listed classes.
        scale: (B,) factor that makes them probabilities.
    """

    normalizer: Tensor
    log_tail: Tensor
    weights: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Listing:
    """Listed classes of a batch.

    Attributes:
        values: (B, C) float32, all logits.
        greatest: (B, 1) float32, the greatest logit of each row.
        logits: (B, K) float32, those of listed classes less the row's greatest, descending; -inf for padding and for
            classes that the teacher rules out.
        ids: (B, K) int64, 0 for padding.
        counts: (B,) int64, entries of each row that are no padding.
        places: (n,) int64, places of the listed classes in the flattened ``values``.
    """

    values: Tensor
    greatest: Tensor
    logits: Tensor
    ids: Tensor
    counts: Tensor
    places: Tensor
    _cache: dict[float, Masses] = field(default_factory=dict)

    def masses(self, temperature: float) -> Masses:
        """Return the distribution of the probability at ``temperature``."""
        if temperature not in self._cache:
            weights = relative(self.values, self.greatest, temperature).exp_()
            self._cache[temperature] = self._masses(temperature, weights)
        return self._cache[temperature]

    def _masses(self, temperature: float, weights: Tensor) -> Masses:
        """Return the masses from the exponentials of all classes, which are overwritten."""
        weights.view(-1).index_fill_(0, self.places, 0.0)
        rest, shift = weights.sum(dim=-1), weights.new_zeros(len(weights))
        if bool((rest < MIN_REST).any()):
            unlisted = relative(self.values, self.greatest, temperature)
            unlisted.view(-1).index_fill_(0, self.places, -torch.inf)
            shift = unlisted.amax(dim=-1)
            shift = torch.where(shift.isfinite(), shift, 0.0)
            weights = unlisted.sub_(shift[:, None]).exp_()
            rest = weights.sum(dim=-1)
        log_rest = rest.log() + shift
        log_listed = (self.logits / temperature).logsumexp(dim=-1)
        normalizer = torch.logaddexp(log_listed, log_rest)
        # log(rest / (listed + rest)), to full precision also where hardly anything is listed.
        log_tail = -torch.nn.functional.softplus(log_listed - log_rest)
        return Masses(normalizer, log_tail, weights, (shift - normalizer).exp())

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """Return (B, K) log-probabilities over all classes."""
        return self.logits / temperature - self.masses(temperature).normalizer[:, None]

    def measure(
        self, temperatures: tuple[float, ...], *, residual: bool
    ) -> tuple[Tensor, Tensor, NDArray[np.float64] | None]:
        """Return the numbers of a listing that are stored.

        Args:
            temperatures: Temperatures at which the unlisted mass is measured.
            residual: Also sum the material of the tail prior over the rows; see Encoded.

        Returns:
            (B, K) log-probabilities at T = 1 over all classes; (B, T) log of the unlisted mass; (2, T, C) sums or None.
        """
        masses = [self.masses(temperature) for temperature in temperatures]
        log_tails = torch.stack([mass.log_tail for mass in masses], dim=-1)
        sums = None
        if residual:
            probability = to_numpy(torch.stack([mass.scale @ mass.weights for mass in masses])).astype(np.float64)
            row, column = np.divmod(to_numpy(self.places), self.values.shape[1])
            sums = np.stack([probability, exposure(to_numpy(log_tails), row, column, self.values.shape[1])])
        return self.log_probs(), log_tails, sums

    def unlisted_probabilities(self, temperature: float) -> Tensor:
        """Return the (B, C) float32 probabilities at ``temperature`` of unlisted classes; 0 for listed ones."""
        masses = self.masses(temperature)
        return masses.weights * masses.scale[:, None]


def relative(values: Tensor, greatest: Tensor, temperature: float) -> Tensor:
    """Return (B, C) logits less the row's greatest, over T."""
    shifted = values - greatest
    return shifted if temperature == 1 else shifted.div_(temperature)


def likeliest(values: Tensor, k: int) -> Listing:
    """Return the ``k`` likeliest classes of each row of (B, C) logits."""
    top, ids = _bounded_topk(values, k) or _descending(*_topk(values, k))
    greatest = top[:, :1]
    starts = torch.arange(len(values), device=values.device)[:, None] * values.shape[1]
    counts = torch.full((len(values),), k)
    return Listing(values, greatest, top - greatest, ids, counts, (ids + starts).flatten())


def at_least(values: Tensor, probability: float, *, temperature: float = 1.0, argmax: bool = True) -> Listing:
    """Return the classes of (B, C) logits whose probability is ``probability`` or more.

    Args:
        values: Logits.
        probability: Least probability, above 0.
        temperature: Temperature that the logits are divided by first.
        argmax: List the likeliest class in any case.
    """
    rows, classes = values.shape
    greatest = values.amax(dim=-1, keepdim=True)
    weights = relative(values, greatest, temperature).exp_()
    cutoff = probability * weights.sum(dim=-1, keepdim=True)
    is_listed = weights >= cutoff
    if argmax:
        lacking = (cutoff > 1)[:, 0].nonzero()[:, 0]
        is_listed[lacking, values[lacking].argmax(dim=-1)] = True
    places = true_places(is_listed)
    row = places // classes
    logits = values.reshape(-1)[places] - greatest[row, 0]
    top, ids, counts = _padded(logits, row, places - row * classes, rows)
    listing = Listing(values, greatest, top, ids, counts, places)
    listing._cache[temperature] = listing._masses(temperature, weights)  # noqa: SLF001  the exponentials are at hand
    return listing


def _topk(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` greatest of (B, C) values and their columns.

    They lie in the ``k`` segments of the greatest maxima. Those are found in a sixth of the time that topk takes for
    the whole row.
    """
    rows, classes = values.shape
    segments = classes // SEGMENT
    if segments < 4 * k:
        return values.topk(k, dim=-1)
    by_segment = values[:, : segments * SEGMENT].view(rows, segments, SEGMENT)
    best = by_segment.amax(dim=-1).topk(k, dim=-1).indices
    columns = (best[:, :, None] * SEGMENT + torch.arange(SEGMENT, device=values.device)).flatten(1)
    rest = torch.arange(segments * SEGMENT, classes, device=values.device).expand(rows, -1)
    columns = torch.cat([columns, rest], dim=1)
    top, index = values.gather(1, columns).topk(k, dim=-1)
    return top, columns.gather(1, index)


def _bounded_topk(values: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """Return the ``k`` greatest of (B, C) values and their columns, descending, equal ones by ascending column.

    The k-th greatest maximum of 4 k groups of columns is a bound, and few more than k values reach it. To sort those
    takes a third of the time of topk. None where this is no gain: on accelerators, for rows of too few columns or of so
    many that `_topk` is as fast, and if many values reach the bound, since they are equal.
    """
    rows, classes = values.shape
    groups = 4 * k
    size = classes // groups
    if not 2 <= size < SEGMENT or values.device.type != "cpu" or not rows:
        return None
    greatest = values[:, : size * groups].reshape(rows, size, groups).amax(dim=1)
    bound = np.partition(greatest.numpy(), groups - k, axis=1)[:, groups - k, None]
    places = true_places(values >= torch.from_numpy(bound))
    row = places // classes
    if len(places) > groups * rows or int(torch.bincount(row).max()) > 2 * groups:
        return None
    top, ids, _ = _padded(values.reshape(-1)[places], row, places - row * classes, rows)
    return top[:, :k], ids[:, :k]


def _padded(logits: Tensor, row: Tensor, ids: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return listed classes row by row, descending, equal ones by ascending id.

    Args:
        logits: Logits above -inf, (n,), or -inf in a row that is not padded.
        row: Row of each, (n,) int64, ascending.
        ids: Class of each, (n,) int64, ascending within a row.
        rows: Number of rows B.

    Returns:
        Logits, (B, K), -inf where a row lists fewer than K classes, ids, (B, K), and the classes of each row, (B,).
    """
    counts = torch.bincount(row, minlength=rows)
    width = int(counts.max()) if len(row) else 1
    starts = torch.arange(0, rows * width, width, device=row.device) - (counts.cumsum(0) - counts)
    slots = torch.arange(len(row), device=row.device).add_(starts[row])
    top = logits.new_full((rows * width,), -torch.inf).scatter_(0, slots, logits).view(rows, width)
    by_slot = ids.new_zeros(rows * width).scatter_(0, slots, ids).view(rows, width)
    # Padding keeps its place at the end: nothing that is listed is -inf.
    top, order = top.sort(dim=-1, descending=True, stable=True)
    return top, by_slot.gather(-1, order), counts


def _descending(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sort values descending, equal ones by ascending id, so that equal rows are stored equally on any device."""
    by_id = ids.argsort(dim=-1)
    values, ids = values.gather(-1, by_id), ids.gather(-1, by_id)
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)
