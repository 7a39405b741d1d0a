"""A codebook of tail priors: each row names in one byte which of M distributions its unlisted mass follows.

One prior for a whole dataset is right on average and wrong in each context. A few dozen, found by clustering the
residual distributions of a few thousand rows (k-means in KL: Banerjee, Merugu, Dhillon, Ghosh 2005), tell apart the
contexts that matter, and the encoder, which sees the row's dense logits, picks the one that costs least. On a language
model 64 of them halve the KL for less than a byte per token (docs/fidelity.md).

A codebook is fitted once, from a pilot, before the first row is labelled. It is a file of the store, named by its hash
in the descriptor, so every engine and every resume uses the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings.encoding import Encoding
from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, Head

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.listing import Listing

MAX_CODEBOOK_BYTES = 2**27 - 4096
"""Upper bound of the bytes of a codebook, which leaves its file within 128 MiB (docs/FORMAT.md)."""
ROUNDS = 8
"""Rounds of k-means."""
SHARED = 0.03
"""Share of the mean of all rows in each prior, which keeps a prior of few rows from being too certain."""
UNIFORM_SHARE = 0.01
"""Share of a uniform distribution in that mean, so that no class has probability 0."""
MAX_PILOT_ROWS = 16_384
"""Upper bound of the rows that a codebook is fitted to."""
MAX_PILOT_BYTES = 2**29
"""Upper bound of the bytes of their residuals in half precision."""
MIN_DEVIATION = 1e-3
"""Lower bound of the deviation of a dimension, relative to the root mean square of those of all dimensions."""
MAX_DEVIATION = 1e30
"""Upper bound of means and deviations, within which values stay finite in float32."""
STANDARDIZED_ROWS = 2048
"""Upper bound of the rows that means and deviations are those of."""
BLOCK_ROWS = 512
"""Rows of the pilot that are widened to float32 together."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """Tail priors to choose from.

    Attributes:
        priors: (T, M, C) float32; each row sums to 1 and is above 0 everywhere. The first temperature decides. Of an
            encoding that standardizes, (T, 2, C): the mean and the deviation of each dimension.
    """

    priors: NDArray[np.float32] = field(repr=False)

    @cached_property
    def _by_class(self) -> Tensor:
        """Priors at the first temperature, (C, M)."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.priors[0].T))

    @cached_property
    def _log_by_class(self) -> Tensor:
        """Their logs, (C, M): a product with it takes two thirds of the time of one with its transpose."""
        return self._by_class.log()

    def choose(self, listing: Listing, temperature: float) -> NDArray[np.uint8]:
        """Return the index of the prior that leaves the least KL for each row, (B,).

        KL_c = const - sum_{v not in S} p_v log pi_c(v) + m log(1 - pi_c(S)), m the unlisted mass.
        """
        import torch

        from softlabels.encodings.logits import to_numpy

        masses = listing.masses(temperature)
        by_class, log = (priors.to(masses.weights.device) for priors in (self._by_class, self._log_by_class))
        is_listed = ~listing.logits.isneginf()
        ends = is_listed.sum(dim=1).cumsum(dim=0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        listed = torch.nn.functional.embedding_bag(listing.ids[is_listed], by_class, starts, mode="sum")
        explained = (masses.weights @ log) * masses.scale[:, None]
        cost = masses.log_tail.exp()[:, None] * torch.log1p(-listed.clamp(max=1 - 1e-7)) - explained
        return to_numpy(cost.argmin(dim=1)).astype(np.uint8)

    def nearest(self, listing: Listing, temperature: float) -> NDArray[np.uint8]:
        """Return the index of the prior of least cross-entropy with each row's whole distribution, (B,)."""
        import torch

        from softlabels.encodings.logits import to_numpy

        masses = listing.masses(temperature)
        log = self._log_by_class.to(masses.weights.device)
        is_listed = ~listing.logits.isneginf()
        p = listing.log_probs(temperature)[is_listed].exp()
        ends = is_listed.sum(dim=1).cumsum(dim=0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        listed = torch.nn.functional.embedding_bag(
            listing.ids[is_listed], log, starts, mode="sum", per_sample_weights=p
        )
        return to_numpy((listed + (masses.weights @ log) * masses.scale[:, None]).argmax(dim=1)).astype(np.uint8)

    def nearest_to(self, weights: Tensor) -> NDArray[np.uint8]:
        """Return the index of the prior of least cross-entropy with (B, C) weights, whatever they sum to, (B,)."""
        from softlabels.encodings.logits import to_numpy

        return to_numpy((weights @ self._log_by_class.to(weights.device)).argmax(dim=1)).astype(np.uint8)

    @cached_property
    def ranks(self) -> NDArray[np.uint32]:
        """Rank of each class in the order of each prior at the first temperature, (M, C); see classes_by_rank."""
        by_rank = classes_by_rank(self.priors).classes
        ranks = np.empty_like(by_rank)
        np.put_along_axis(ranks, by_rank, np.arange(by_rank.shape[1], dtype=np.uint32)[None], axis=1)
        return ranks


class ByRank(NamedTuple):
    """Classes of each codeword from the likeliest on, equal ones by ascending id.

    Attributes:
        classes: (M, C) class ids.
        probabilities: (M, C) float32, their probabilities by the codeword.
    """

    classes: NDArray[np.uint32]
    probabilities: NDArray[np.float32]


_BY_RANK: dict[int, tuple[weakref.ref[NDArray[np.float32]], ByRank]] = {}
"""Order of the classes of the codebooks in use; an entry goes with its codebook."""


def classes_by_rank(priors: NDArray[np.float32]) -> ByRank:
    """Return the classes of each codeword by rank.

    Sorting takes some seconds for a large vocabulary, so the result is cached as long as the array exists.

    Args:
        priors: (1, M, C) float32, the priors of a codebook.
    """
    known = _BY_RANK.get(id(priors))
    if known is not None and known[0]() is priors:
        return known[1]
    classes = np.stack([np.argsort(-prior, kind="stable") for prior in priors[0]]).astype(np.uint32)
    by_rank = ByRank(classes, np.take_along_axis(priors[0], classes.astype(np.int64), axis=1))
    number = id(priors)
    _BY_RANK[number] = (weakref.ref(priors, lambda _: _BY_RANK.pop(number, None)), by_rank)
    return by_rank


def pilot_rows(head: Head) -> int:
    """Return the number of rows that a codebook of this head is fitted to, if there are so many."""
    if head.kind not in DISTRIBUTIONS:
        return STANDARDIZED_ROWS
    return min(MAX_PILOT_ROWS, MAX_PILOT_BYTES // (2 * head.classes * len(head.temperatures)))


def fit(encoding: Encoding, head: Head, pilot: Iterable[Tensor], *, seed: int = 0) -> Codebook:
    """Fit a codebook to a pilot.

    Example:
        >>> import torch
        >>> from softlabels import encodings
        >>> from softlabels.encodings import codebook
        >>> from softlabels.labels import Head
        >>> encoding = encodings.parse("topk:2:f16:3", classes=10)
        >>> head = Head(encoding=encoding.spec, classes=10)
        >>> codebook.fit(encoding, head, [torch.randn(50, 10)]).priors.shape
        (1, 3, 10)

    Args:
        encoding: Encoding of the head.
        head: Head of the rows.
        pilot: (n, C) logits each, of some thousand rows or positions in all.
        seed: Seed of the rows at which clustering starts.

    Raises:
        InvalidArgument: Too few rows for so many priors.
        InvalidLogits: Logits that are not finite, or of another shape.
    """
    import torch

    head = head.item
    if encoding.standardizes:
        return _standardization(head, pilot)
    by_temperature: list[list[Tensor]] = [[] for _ in head.temperatures]
    priors, rows, limit = encoding.priors, 0, pilot_rows(head)
    for logits in pilot:
        distributions = encoding.pilot_distributions(logits, head, np.arange(rows, rows + len(logits)))
        for residuals, distribution in zip(by_temperature, distributions, strict=True):
            residuals.append(distribution[: max(0, limit - rows)].half().cpu())
        rows += len(by_temperature[0][-1])
        if rows >= limit:
            break
    if rows < 4 * priors:
        raise InvalidArgument(
            f"codebook: {priors} tail priors need a pilot of {4 * priors} rows or more, got {rows}. Use fewer priors"
        )
    first = torch.cat(by_temperature[0])
    mean = _mixed(first.float().sum(dim=0))
    generator = torch.Generator().manual_seed(seed % 2**63)
    chosen = first[torch.randperm(rows, generator=generator)[:priors]].float()
    centres = 0.5 * chosen / chosen.sum(dim=1, keepdim=True).clamp_min(1e-12) + 0.5 * mean
    nearest = torch.zeros(rows, dtype=torch.int64)
    for _ in range(ROUNDS):
        log_centres = centres.log().T
        nearest = torch.cat([(r.float() @ log_centres).argmax(dim=1) for r in torch.split(first, BLOCK_ROWS)])
        centres = _centres(first, nearest, priors)
    by_prior = [_centres(torch.cat(residuals), nearest, priors) for residuals in by_temperature]
    return Codebook(torch.stack(by_prior).numpy())


def _standardization(head: Head, pilot: Iterable[Tensor]) -> Codebook:
    """Return the mean and the deviation of each dimension of a pilot.

    A deviation is at least MIN_DEVIATION of the root mean square of all, so that a dimension which is constant in the
    pilot may differ later.
    """
    import torch

    from softlabels.encodings.logits import checked_float

    sums, rows, limit = torch.zeros(2, head.classes, dtype=torch.float64), 0, pilot_rows(head)
    shift: Tensor | None = None
    for batch in pilot:
        values = checked_float(batch[: limit - rows], head, np.arange(rows, rows + len(batch[: limit - rows]))).cpu()
        shift = values[:1].double() if shift is None and len(values) else shift
        if shift is not None:
            centred = values.double() - shift
            sums += torch.stack([centred.sum(dim=0), centred.square().sum(dim=0)])
        rows += len(values)
        if rows >= limit:
            break
    if shift is None:
        raise InvalidArgument(f"codebook: {head.encoding} needs a pilot of a row or more, got none")
    mean = sums[0] / rows
    deviation = (sums[1] / rows - mean.square()).clamp_min(0).sqrt()
    least = max(MIN_DEVIATION * float(deviation.square().mean().sqrt()), torch.finfo(torch.float32).tiny)
    deviation = deviation.clamp_min(least) if deviation.any() else torch.ones_like(deviation)
    both = torch.stack([shift[0] + mean, deviation]).clamp(-MAX_DEVIATION, MAX_DEVIATION).float()
    return Codebook(both.expand(len(head.temperatures), -1, -1).contiguous().numpy())


def _centres(residuals: Tensor, nearest: Tensor, priors: int) -> Tensor:
    """Return the mean residual of each cluster, (M, C), with a share of the mean of all."""
    import torch

    sums = residuals.new_zeros((priors, residuals.shape[1]), dtype=torch.float32)
    for block, clusters in zip(torch.split(residuals, BLOCK_ROWS), torch.split(nearest, BLOCK_ROWS), strict=True):
        sums.index_add_(0, clusters, block.float())
    mean = _mixed(sums.sum(dim=0))
    mass = sums.sum(dim=1, keepdim=True)
    own = (sums / mass.clamp_min(1e-12)).where(mass > 0, mean)
    mixed = (1 - SHARED) * own + SHARED * mean
    return mixed / mixed.sum(dim=1, keepdim=True)


def _mixed(sums: Tensor) -> Tensor:
    """Return sums as a distribution with a uniform share."""
    share = sums / sums.sum().clamp_min(1e-12)
    return (1 - UNIFORM_SHARE) * share + UNIFORM_SHARE / len(sums)


def check_priors(priors: NDArray[Any], shape: tuple[int, int, int], *, standardizes: bool = False) -> None:
    """Raise ValueError unless an array is a codebook.

    Args:
        priors: The array.
        shape: Its expected shape, (T, M, C).
        standardizes: If True, it must hold means and deviations, otherwise distributions.
    """
    if priors.shape != shape or priors.dtype != np.float32:
        raise ValueError(f"tail priors of shape {priors.shape}, {priors.dtype}, where {shape} in float32 are expected")
    if standardizes:
        if not (np.abs(priors) <= MAX_DEVIATION).all() or not (priors[:, 1] > 0).all():
            raise ValueError("means or deviations that are not finite, or out of range")
    elif not (priors > 0).all() or not (np.abs(priors.sum(axis=-1, dtype=np.float64) - 1) <= 1e-3).all():
        raise ValueError("tail priors that are no distributions")
