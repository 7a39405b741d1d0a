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
        prior: (n, C), a view of one row where all share it.
        spread: (n,).
    """

    ids: NDArray[np.integer]
    p: Floats
    valid: NDArray[np.bool_]
    prior: Floats
    spread: Floats

    def of(self, ids: NDArray[np.integer]) -> Floats:
        """The prior of (n, L) classes."""
        return np.take_along_axis(self.prior, ids, axis=1)


def _mean_sparse(parts: Sequence[SparseLabels], weights: Sequence[float], temperature: float) -> SparseLabels:
    first = parts[0]
    members = [_listed(part, temperature) for part in parts]
    weighted = list(zip(weights, members, strict=True))
    # What listing a class adds to what the tail gives it anyway.
    gains = [w * np.where(m.valid, m.p - m.spread[:, None] * m.of(m.ids), 0.0) for w, m in weighted]
    ids, gain, valid = _grouped([m.ids for m in members], gains, [m.valid for m in members], first.classes)
    p = gain + sum(w * m.spread[:, None] * m.of(ids) for w, m in weighted)
    p = np.where(valid, p, 0.0)
    rest = sum(w * m.spread * np.maximum(1 - np.where(valid, m.of(ids), 0.0).sum(axis=1), 0.0) for w, m in weighted)
    order = np.argsort(-p, axis=1, kind="stable")[:, : max(1, int(valid.sum(axis=1).max(initial=0)))]
    ids, p = np.take_along_axis(ids, order, axis=1), np.take_along_axis(p, order, axis=1)
    with np.errstate(divide="ignore"):
        values = np.log(p) * (1.0 if first.unbiased else temperature)
        log_tail = np.log(np.asarray(rest))[:, None]
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
    spread = np.zeros(len(p))
    if labels.tail == "renormalize" and not labels.unbiased:
        p /= p.sum(axis=1, keepdims=True)
    elif not labels.unbiased:
        listed = np.where(valid, np.take_along_axis(prior, labels.ids, axis=1), 0.0).sum(axis=1)
        left = np.maximum(1 - listed, np.finfo(np.float64).tiny)
        spread = np.exp(labels.log_tail[:, index].astype(np.float64)) / left
    return _Listed(labels.ids, np.where(valid, p, 0.0), valid, prior, spread)


def _grouped(
    ids: Sequence[NDArray[np.integer]], gains: Sequence[Floats], valid: Sequence[NDArray[np.bool_]], classes: int
) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Each class once a row, with the sum of its gains: ids, sums and which are real, (n, all that are listed)."""
    listed = np.concatenate(valid, axis=1)
    keyed = np.where(listed, np.concatenate(ids, axis=1).astype(np.int64), classes)
    order = np.argsort(keyed, axis=1, kind="stable")
    keyed, gain = np.take_along_axis(keyed, order, axis=1), np.take_along_axis(np.concatenate(gains, axis=1), order, 1)
    begins = np.ones(keyed.shape, np.bool_)
    begins[:, 1:] = keyed[:, 1:] != keyed[:, :-1]
    rows, width = keyed.shape
    group = begins.cumsum(axis=1) - 1 + (np.arange(rows) * width)[:, None]
    sums = np.bincount(group.ravel(), gain.ravel(), rows * width).reshape(rows, width)
    out = np.full(rows * width, classes)
    out[group[begins]] = keyed[begins]
    out = out.reshape(rows, width)
    real = out < classes
    return np.where(real, out, 0), np.where(real, sums, 0.0), real
