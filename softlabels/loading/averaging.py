"""The weighted mean of what several teachers said of the same rows (docs/loading.md, "Several stores").

With weights w_m that sum to one the mean is p(v) = sum_m w_m p^_m(v), at one temperature T, p^_m being what teacher m
said as it is reconstructed, tail included (docs/fidelity.md, eq. 3).

Dense labels: exact. Sparse ones: the classes that any teacher lists are listed, with exactly p(v); where a teacher does
not list v, its p^_m(v) is its tail mass spread by its tail prior. The mass of the rest is exact too; how it spreads
over the classes that nobody lists follows the mean of the priors, which is exact where the teachers share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels, SoftLabels, SparseLabels

Floats = NDArray[np.float64]


def mean_labels(parts: Sequence[SoftLabels], weights: Sequence[float], temperature: float) -> SoftLabels:
    """The mean of labels of the same rows, valid at ``temperature`` alone; a plain mean of numbers to regress on.

    Args:
        parts: labels by teacher, of one head.
        weights: of the teachers; they sum to 1.
        temperature: at which distributions are averaged; sparse labels must hold it.

    Raises:
        InvalidArgument: labels that have no mean: a tail that is one outcome (bucket), or samples beside others.
        TemperatureNotStored: the labels hold no tail mass at this temperature.
    """
    if any(part.unbiased or part.tail == "bucket" for part in parts if isinstance(part, SparseLabels)):
        alike = all(isinstance(part, SparseLabels) and part.unbiased for part in parts)
        if not alike:
            raise InvalidArgument(
                "samples can be averaged with samples alone, and a bucket says nothing of single classes; make the "
                "labels with another encoding, or open them with another tail"
            )
    sparse = [part for part in parts if isinstance(part, SparseLabels)]
    if len(sparse) == len(parts):
        return _mean_sparse(sparse, weights, temperature)
    first = next(part for part in parts if isinstance(part, DenseLabels))
    if first.kind not in DISTRIBUTIONS:
        values = sum(weight * np.asarray(part.values, np.float64) for part, weight in zip(parts, weights, strict=True))
        return DenseLabels(np.asarray(values, np.float32), first.kind, first.lengths)
    p = sum(w * np.exp(part.log_probs(temperature).astype(np.float64)) for part, w in zip(parts, weights, strict=True))
    with np.errstate(divide="ignore"):
        return DenseLabels((temperature * np.log(p)).astype(np.float32), first.kind, first.lengths)


@dataclass(frozen=True)
class _Listed:
    """One teacher's listed classes, and its tail: an unlisted class v has probability ``spread`` * ``prior[v]``.

    Attributes:
        ids: (n, K).
        p: (n, K), 0 where padded.
        valid: (n, K).
        prior: (n, C), or (1, C) where all rows share one.
        spread: (n,).
    """

    ids: NDArray[np.integer]
    p: Floats
    valid: NDArray[np.bool_]
    prior: Floats
    spread: Floats

    def of(self, ids: NDArray[np.integer]) -> Floats:
        """The prior of (n, L) classes."""
        return _prior_of(self.prior, ids)


def _prior_of(prior: Floats, ids: NDArray[np.integer]) -> Floats:
    # One row for all is a plain gather, five times faster than one along an axis.
    return prior[0].take(ids) if len(prior) == 1 else np.take_along_axis(prior, ids, axis=1)


def _mean_sparse(parts: Sequence[SparseLabels], weights: Sequence[float], temperature: float) -> SparseLabels:
    first = parts[0]
    members = [_listed(part, temperature) for part in parts]
    weighted = list(zip(weights, members, strict=True))
    # What listing a class adds to what the tail gives it anyway.
    gains = [w * np.where(m.valid, m.p - m.spread[:, None] * m.of(m.ids), 0.0) for w, m in weighted]
    ids, gain, valid = _grouped([m.ids for m in members], gains, [m.valid for m in members], first.classes)
    p, rest = gain, np.zeros(len(ids))
    for weight, member in weighted:
        prior = member.of(ids)
        p = p + weight * member.spread[:, None] * prior
        rest += weight * member.spread * np.maximum(1 - np.where(valid, prior, 0.0).sum(axis=1), 0.0)
    p = np.where(valid, p, 0.0)
    order = _descending(p)[:, : max(1, int(valid.sum(axis=1).max(initial=0)))]
    ids, p = _along(ids, order), _along(p, order)
    with np.errstate(divide="ignore"):
        values = np.log(p) * (1.0 if first.unbiased else temperature)
        log_tail = np.log(rest)[:, None]
    return SparseLabels(
        classes=first.classes,
        ids=np.where(p > 0, ids, 0),
        values=values.astype(np.float32),
        temperatures=(temperature,),
        log_tail=log_tail.astype(np.float32),
        tail="calibrated",
        prior=_mean_prior(parts, weights, temperature),
        unbiased=first.unbiased,
        lengths=first.lengths,
    )


def _mean_prior(parts: Sequence[SparseLabels], weights: Sequence[float], temperature: float) -> NDArray[np.float32]:
    """The mean of the teachers' tail priors, (1, C); of a codebook the mean of its priors."""
    total = np.zeros(parts[0].classes)
    for part, weight in zip(parts, weights, strict=True):
        prior = np.full((1, part.classes), 1 / part.classes)
        if part.prior is not None and part.tail != "uniform":
            prior = part.prior[part.temperature_index(temperature)]
        total += weight * prior.reshape(-1, part.classes).mean(axis=0, dtype=np.float64)
    return total.astype(np.float32)[None]


def _listed(labels: SparseLabels, temperature: float) -> _Listed:
    index = labels.temperature_index(temperature)
    p = np.exp(labels.listed_log_probs(temperature).astype(np.float64))
    valid = np.isfinite(labels.values)
    prior = labels.tail_prior(index)
    prior = prior[:1] if prior.strides[0] == 0 else prior  # a view of one row
    spread = np.zeros(len(p))
    if labels.tail == "renormalize" and not labels.unbiased:
        p /= p.sum(axis=1, keepdims=True)
    elif not labels.unbiased:
        listed = np.where(valid, _prior_of(prior, labels.ids), 0.0).sum(axis=1)
        left = np.maximum(1 - listed, np.finfo(np.float64).tiny)
        spread = np.exp(labels.log_tail[:, index].astype(np.float64)) / left
    return _Listed(labels.ids, np.where(valid, p, 0.0), valid, prior, spread)


def _grouped(
    ids: Sequence[NDArray[np.integer]], gains: Sequence[Floats], valid: Sequence[NDArray[np.bool_]], classes: int
) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Each class of a row at one place, with the sum of its gains: ids, sums and which places are real, (n, L)."""
    listed = np.concatenate(valid, axis=1)
    keyed = np.where(listed, np.concatenate(ids, axis=1).astype(np.int64), classes)
    order = _ascending(keyed)
    keyed, gain = _along(keyed, order), _along(np.concatenate(gains, axis=1), order)
    real = keyed < classes
    first = real.copy()
    first[:, 1:] &= keyed[:, 1:] != keyed[:, :-1]
    # Equal ones are neighbours now: the first of them gathers the others, of which there are as many as teachers.
    sums = gain.copy()
    for step in range(1, keyed.shape[1]):
        same = (keyed[:, step:] == keyed[:, :-step]) & real[:, step:]
        if not same.any():
            break
        sums[:, :-step] += np.where(same, gain[:, step:], 0.0)
    return np.where(first, keyed, 0), sums, first


def _ascending(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The stable order of (n, L) numbers from 0 to 2^40 by row: sorts them with their places in the lower bits.

    NumPy sorts whole numbers with vector instructions, which is several times faster than its sorts of places.
    """
    bits = max(1, (numbers.shape[1] - 1).bit_length())
    packed: NDArray[np.int64] = (numbers << bits) | np.arange(numbers.shape[1])
    packed.sort(axis=1)
    packed &= (1 << bits) - 1
    return packed


def _descending(p: Floats) -> NDArray[np.int64]:
    """The stable order of (n, L) probabilities by row, the largest first, to the precision of float32."""
    # The bits of floats that are not negative are ordered as they are.
    return _ascending(np.int64(2**31 - 1) - np.abs(p).astype(np.float32).view(np.int32))


def _along(array: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """Each row of (n, L) in the order of its row of places."""
    taken: NDArray[Any] = array.reshape(-1).take(order + (np.arange(len(array)) * array.shape[1])[:, None])
    return taken
