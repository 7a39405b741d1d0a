"""The weighted mean of the labels of several teachers for the same rows (docs/loading.md, "Several stores").

With weights w_m that sum to one, the mean is p(v) = sum_m w_m p^_m(v) at one temperature T. p^_m is the distribution of
teacher m as it is reconstructed from its labels, tail included (docs/fidelity.md, eq. 3).

Dense labels give the exact mean. For sparse labels, the classes that any teacher lists are listed with exactly p(v). A
teacher that does not list v contributes its tail mass spread by its tail prior. The mass of the tail is exact too. It
spreads over the unlisted classes by the mean of the priors, which is exact if the teachers share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels, Dither, SoftLabels, SparseLabels

Floats = NDArray[np.float64]


def mean_labels(by_teacher: Sequence[SoftLabels], weights: Sequence[float], temperature: float) -> SoftLabels:
    """Return the mean of labels of the same rows: of distributions at ``temperature``, or of regression values.

    Args:
        by_teacher: Labels of one head, by teacher.
        weights: Weight of each teacher; they sum to 1.
        temperature: Temperature at which distributions are averaged; sparse labels must hold it.

    Raises:
        InvalidArgument: Labels that have no mean: a tail that is one outcome (bucket), or samples beside others.
        TemperatureNotStored: The labels hold no tail mass at this temperature.
    """
    sparse = [labels for labels in by_teacher if isinstance(labels, SparseLabels)]
    if any(labels.unbiased or labels.tail == "bucket" for labels in sparse) and not (
        len(sparse) == len(by_teacher) and all(labels.unbiased for labels in sparse)
    ):
        raise InvalidArgument(
            "labels: samples can be averaged with samples alone, and a bucket does not describe single classes. "
            "Generate the labels with another encoding, or open them with another tail"
        )
    if len(sparse) == len(by_teacher):
        return _mean_sparse(sparse, weights, temperature)
    first = next(labels for labels in by_teacher if isinstance(labels, DenseLabels))
    weighted = list(zip(weights, by_teacher, strict=True))
    if first.kind not in DISTRIBUTIONS:
        values = sum(w * np.asarray(labels.values, np.float64) for w, labels in weighted)
        return DenseLabels(np.asarray(values, np.float32), first.kind, first.lengths)
    p = sum(w * np.exp(labels.log_probs(temperature).astype(np.float64)) for w, labels in weighted)
    with np.errstate(divide="ignore"):
        return DenseLabels((temperature * np.log(p)).astype(np.float32), first.kind, first.lengths)


@dataclass(frozen=True)
class _Listed:
    """The labels of one teacher. An unlisted class v has probability ``spread * prior[v]``.

    Attributes:
        ids: Listed classes, (n, K).
        p: Their probabilities, 0 for padding, (n, K).
        valid: False for padding, (n, K).
        prior: Tail prior, (n, C); (1, C) if all rows share one.
        spread: Tail mass over the prior's mass of the unlisted classes, (n,).
    """

    ids: NDArray[np.integer]
    p: Floats
    valid: NDArray[np.bool_]
    prior: Floats
    spread: Floats

    def of(self, ids: NDArray[np.integer]) -> Floats:
        """Return the prior of (n, L) classes."""
        return _prior_of(self.prior, ids)


def _prior_of(prior: Floats, ids: NDArray[np.integer]) -> Floats:
    # A prior that all rows share is a plain gather, five times faster than one along an axis.
    return prior[0].take(ids) if len(prior) == 1 else np.take_along_axis(prior, ids, axis=1)


def _mean_sparse(by_teacher: Sequence[SparseLabels], weights: Sequence[float], temperature: float) -> SparseLabels:
    first = by_teacher[0]
    members = [_listed(labels, temperature) for labels in by_teacher]
    weighted = list(zip(weights, members, strict=True))
    # Listing a class adds this to the probability that the tail gives it in any case.
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
        prior=_mean_prior(by_teacher, weights, temperature),
        unbiased=first.unbiased,
        lengths=first.lengths,
        shape=first.shape,
        drawn=any(labels.drawn for labels in by_teacher),
        dither=_common_dither([labels.dither for labels in by_teacher]),
    )


def _common_dither(dithers: Sequence[Dither | None]) -> Dither | None:
    """Return the offsets that all teachers were rounded by, as those of equal rows are; None if they differ."""
    first = dithers[0]
    if first is None:
        return None
    is_common = all(
        dither is not None and dither.step == first.step and np.array_equal(dither.offsets, first.offsets)
        for dither in dithers
    )
    return first if is_common else None


def _mean_prior(
    by_teacher: Sequence[SparseLabels], weights: Sequence[float], temperature: float
) -> NDArray[np.float32]:
    """Return the mean of the teachers' tail priors, (1, C). A codebook counts as the mean of its priors."""
    total = np.zeros(by_teacher[0].classes)
    for labels, weight in zip(by_teacher, weights, strict=True):
        prior = np.full((1, labels.classes), 1 / labels.classes)
        if labels.prior is not None and labels.tail != "uniform":
            prior = labels.prior[labels.temperature_index(temperature)]
        total += weight * prior.reshape(-1, labels.classes).mean(axis=0, dtype=np.float64)
    return total.astype(np.float32)[None]


def _listed(labels: SparseLabels, temperature: float) -> _Listed:
    index = labels.temperature_index(temperature)
    p = np.exp(labels.listed_log_probs(temperature).astype(np.float64))
    valid = np.isfinite(labels.values)
    prior = labels.tail_prior(index)
    prior = prior[:1] if prior.strides[0] == 0 else prior  # a broadcast row
    spread = np.zeros(len(p))
    if labels.tail == "renormalize" and not labels.unbiased:
        p /= p.sum(axis=1, keepdims=True)
    elif not labels.unbiased:
        listed = np.where(valid, _prior_of(prior, labels.ids), 0.0).sum(axis=1)
        unlisted = np.maximum(1 - listed, np.finfo(np.float64).tiny)
        spread = np.exp(labels.log_tail[:, index].astype(np.float64)) / unlisted
    return _Listed(labels.ids, np.where(valid, p, 0.0), valid, prior, spread)


def _grouped(
    ids: Sequence[NDArray[np.integer]], gains: Sequence[Floats], valid: Sequence[NDArray[np.bool_]], classes: int
) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Sum the gains of each class of a row; return ids, sums and a mask of the entries in use, (n, L) each."""
    listed = np.concatenate(valid, axis=1)
    keyed = np.where(listed, np.concatenate(ids, axis=1).astype(np.int64), classes)
    order = _ascending(keyed)
    keyed, gain = _along(keyed, order), _along(np.concatenate(gains, axis=1), order)
    real = keyed < classes
    first = real.copy()
    first[:, 1:] &= keyed[:, 1:] != keyed[:, :-1]
    # Equal classes are adjacent now. The first entry of a class sums the others, at most one per teacher.
    sums = gain.copy()
    for step in range(1, keyed.shape[1]):
        same = (keyed[:, step:] == keyed[:, :-step]) & real[:, step:]
        if not same.any():
            break
        sums[:, :-step] += np.where(same, gain[:, step:], 0.0)
    return np.where(first, keyed, 0), sums, first


def _ascending(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stable sort order of each row of (n, L) integers from 0 to 2^40.

    Each integer is sorted together with its index in the lower bits. NumPy sorts integers with vector instructions,
    several times faster than it computes sort orders (``benchmarks/buffers.py``).
    """
    bits = max(1, (numbers.shape[1] - 1).bit_length())
    packed: NDArray[np.int64] = (numbers << bits) | np.arange(numbers.shape[1])
    packed.sort(axis=1)
    packed &= (1 << bits) - 1
    return packed


def _descending(p: Floats) -> NDArray[np.int64]:
    """Return the stable order of each row of (n, L) probabilities, largest first, to the precision of float32."""
    # Read as integers, floats that are not negative have the same order.
    return _ascending(np.int64(2**31 - 1) - np.abs(p).astype(np.float32).view(np.int32))


def _along(array: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """Return each row of (n, L) in the order of the same row of ``order``."""
    ordered: NDArray[Any] = array.reshape(-1).take(order + (np.arange(len(array)) * array.shape[1])[:, None])
    return ordered
