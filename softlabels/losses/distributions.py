"""Losses between two distributions over classes: the teacher's, as its labels reconstruct it, and the student's.

All are exact in value and gradient for every encoding and tail model for which they are finite; where one is not (a
reverse KL to labels that leave classes without probability) there is an error. ``kl`` and ``cross_entropy`` are linear
in p^, and so the ones that unbiased labels (sampled, threshold) are right for on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels, SoftLabels, SparseLabels
from softlabels.losses.matching import (
    Mask,
    check_classes,
    checked_temperature,
    match,
    reduce,
    refuse_samples,
    require_support,
    weights_of,
)
from softlabels.losses.pieces import Rule, per_row, per_row_of_linear
from softlabels.losses.targets import SparseTargets, Targets, place

NO_LABEL = -1
"""A hard label of a row that has none."""


def kl(
    student_logits: Tensor,
    labels: SoftLabels,
    *,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Forward KL from the teacher's labels to the student, KL(p^_T || q_T), mean over rows, in nats.

    In closed form for sparse labels (docs/fidelity.md, eq. 7): no (N, C) target is ever built. The gradient with
    respect to the logits is T (q - p^).

    Args:
        student_logits: (N, C), or (..., C) with N positions in all; any float dtype, reduced in float32.
        labels: of the same N rows; of ragged rows N counts positions.
        temperature: T > 0; for sparse labels one of ``labels.temperatures``.
        mask: N booleans, or weights, of any shape; the mean is over what they keep. None: all.
        scale_by_temperature: multiply by T^2, which keeps the size of the gradient (Hinton, Vinyals, Dean 2015).

    Returns:
        A scalar, float32; 0 where the mask keeps nothing.

    Raises:
        InvalidArgument: labels of another number of rows or classes, or not of a distribution.
        TemperatureNotStored: the labels hold no tail mass at this temperature.
    """
    return _mean(student_logits, labels, KL, temperature, mask, scale=scale_by_temperature)


def cross_entropy(
    student_logits: Tensor,
    target: Tensor | NDArray[Any] | SoftLabels,
    *,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Cross-entropy with hard or soft labels, in nats.

    With soft ones, H(p^_T, q_T): the KL and a constant. With hard ones the mean over the rows that have one, at T = 1.

    Args:
        student_logits: (..., C).
        target: class numbers, -1 where a row has none; or soft labels.
        temperature: as for kl; of soft labels alone.
        mask: as for kl.
        scale_by_temperature: as for kl.

    Raises:
        InvalidArgument: as kl.
    """
    if isinstance(target, DenseLabels | SparseLabels):
        return _mean(student_logits, target, CROSS_ENTROPY, temperature, mask, scale=scale_by_temperature)
    logits = student_logits.flatten(0, -2)
    hard = torch.as_tensor(target, device=logits.device).flatten()
    losses = functional.cross_entropy(logits.float(), hard.long(), ignore_index=NO_LABEL, reduction="none")
    return reduce(losses, (hard != NO_LABEL).float() * weights_of(mask, losses))


def reverse_kl(
    student_logits: Tensor,
    labels: SoftLabels,
    *,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Reverse KL, KL(q_T || p^_T), mean over rows, in nats.

    The student may leave modes of the teacher out (MiniLLM, arXiv 2306.08543). Infinite where the teacher ruled
    a class out. Arguments and errors are those of ``kl``.

    Raises:
        InvalidArgument: also for labels that leave classes without probability (renormalize, unbiased ones).
    """
    require_support("the reverse KL", labels)
    return _mean(student_logits, labels, REVERSE_KL, temperature, mask, scale=scale_by_temperature)


def jensen_shannon(
    student_logits: Tensor,
    labels: SoftLabels,
    *,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Jensen-Shannon divergence of p^_T and q_T, mean over rows, in nats (at most log 2; GKD, arXiv 2306.13649).

    Arguments and errors are those of ``kl``.

    Raises:
        InvalidArgument: also for unbiased labels, for which it is not right on average.
    """
    refuse_samples("the Jensen-Shannon divergence", labels)
    return _mean(student_logits, labels, JENSEN_SHANNON, temperature, mask, scale=scale_by_temperature)


def logit_mse(student_logits: Tensor, labels: SoftLabels, *, mask: Mask = None) -> Tensor:
    """Mean squared difference of logits (Ba and Caruana 2014), each side less its mean over the classes compared.

    Softmax ignores a constant a row, so this does too. Compared are all classes of dense labels, and of sparse ones
    those listed: of the others only their mass is known.

    Args:
        student_logits: (..., C).
        labels: of the same rows.
        mask: as for kl.

    Raises:
        InvalidArgument: as kl; also for unbiased labels, which hold no logits.
    """
    refuse_samples("the MSE of logits", labels)
    return _mean(student_logits, labels, LOGIT_MSE, _any_temperature(labels), mask, scale=False)


def dkd(
    student_logits: Tensor,
    labels: SoftLabels,
    hard: Tensor | NDArray[Any] | None = None,
    *,
    temperature: float = 1.0,
    target_weight: float = 1.0,
    other_weight: float = 8.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Decoupled knowledge distillation (DKD; Zhao et al. 2022, arXiv 2203.08679, eq. 7), mean over rows, in nats.

    target_weight * KL of (target, rest) + other_weight * KL among the other classes.

    Args:
        student_logits: (..., C).
        labels: of the same rows.
        hard: (N,) target classes; where -1, or for None, the teacher's likeliest class.
        temperature: as for kl.
        target_weight: the paper's alpha.
        other_weight: the paper's beta.
        mask: as for kl.
        scale_by_temperature: as for kl.

    Raises:
        InvalidArgument: as kl; also for unbiased labels and for a bucket, which hold no probability of each class.
    """
    refuse_samples("DKD", labels)
    if isinstance(labels, SparseLabels) and labels.tail == "bucket":
        raise InvalidArgument(
            "DKD needs a probability of each class; the bucket has none: use tail calibrated or uniform"
        )
    logits, targets = match(student_logits, labels, temperature)
    chosen = torch.full((len(logits),), NO_LABEL) if hard is None else torch.as_tensor(hard).flatten().long()
    if len(chosen) != len(logits):
        raise InvalidArgument(f"the student gives {len(logits)} rows, but there are {len(chosen)} hard labels")

    def value(scaled: Tensor, pointed: _Pointed) -> Tensor:
        log_q, log_p = scaled.log_softmax(dim=-1), pointed.targets.log_probs()
        target = torch.where(pointed.hard == NO_LABEL, log_p.argmax(dim=-1), pointed.hard)[:, None]
        return _decoupled(log_q, log_p, target, target_weight, other_weight)

    losses = per_row(logits, _Pointed(targets, chosen.to(logits.device)), Rule(value), temperature)
    return reduce(losses, weights_of(mask, losses)) * (temperature**2 if scale_by_temperature else 1.0)


def linear_kl(
    states: Tensor,
    weight: Tensor,
    labels: SoftLabels,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """``kl`` of logits = states @ weight.T + bias, which are never held as a whole.

    A few MiB of logits at a time, computed again on the way back: beside the gradients of its arguments, memory does
    not depend on N times C. Value and gradients are those of ``kl``. Under autocast the products are in its dtype.

    Args:
        states: (..., D), what goes into the student's last linear layer.
        weight: (C, D) of that layer.
        labels: of the same N rows.
        bias: (C,).
        temperature: as for kl.
        mask: as for kl.
        scale_by_temperature: as for kl.

    Raises:
        InvalidArgument: as kl.
    """
    flat = states.flatten(0, -2)
    check_classes(flat.new_empty(0).expand(len(flat), 0), labels, width=len(weight))
    targets = place(labels, checked_temperature(temperature), flat.device)
    losses = per_row_of_linear(flat, weight, bias, targets, KL, temperature)
    return reduce(losses, weights_of(mask, losses)) * (temperature**2 if scale_by_temperature else 1.0)


@dataclass(frozen=True)
class _Pointed:
    """Targets with a hard label a row."""

    targets: Targets
    hard: Tensor

    def rows(self, start: int, stop: int) -> _Pointed:
        return _Pointed(self.targets.rows(start, stop), self.hard[start:stop])


def _any_temperature(labels: SoftLabels) -> float:
    return 1.0 if isinstance(labels, DenseLabels) or 1.0 in labels.temperatures else labels.temperatures[0]


def _mean(
    student_logits: Tensor, labels: SoftLabels, rule: Rule, temperature: float, mask: Mask, *, scale: bool
) -> Tensor:
    logits, targets = match(student_logits, labels, temperature)
    losses = per_row(logits, targets, rule, temperature)
    loss = reduce(losses, weights_of(mask, losses))
    return loss * temperature**2 if scale else loss


def _kl_value(scaled: Tensor, targets: Targets) -> Tensor:
    return targets.cross(scaled) - targets.entropy()


def _pair(scaled: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Log q and log p^ over the outcomes there are: classes, or those listed and the bucket."""
    if isinstance(targets, SparseTargets) and targets.log_bucket is not None:
        return targets.outcomes(scaled)
    return scaled.log_softmax(dim=-1), targets.log_probs()


def _reverse_value(scaled: Tensor, targets: Targets) -> Tensor:
    log_q, log_p = _pair(scaled, targets)
    return _divergence(log_q, log_p)


def _jensen_shannon_value(scaled: Tensor, targets: Targets) -> Tensor:
    log_q, log_p = _pair(scaled, targets)
    middle = torch.logaddexp(log_q, log_p) - math.log(2)
    return 0.5 * (_divergence(log_p, middle) + _divergence(log_q, middle))


def _divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) over the last axis; an outcome that a does not have adds nothing."""
    there = log_a.isfinite()
    safe_a, safe_b = torch.where(there, log_a, 0.0), torch.where(there, log_b, 0.0)
    return torch.where(there, safe_a.exp() * (safe_a - safe_b), 0.0).sum(dim=-1)


def _logit_value(scaled: Tensor, targets: Targets) -> Tensor:
    if isinstance(targets, SparseTargets):
        student, teacher = scaled.gather(1, targets.ids), targets.log_p
    else:
        student, teacher = scaled, targets.log_probs()
    there = teacher.isfinite()
    count = there.sum(dim=-1, keepdim=True)
    difference = torch.where(there, student - torch.where(there, teacher, 0.0), 0.0)
    centred = torch.where(there, difference - difference.sum(dim=-1, keepdim=True) / count, 0.0)
    return (centred**2).sum(dim=-1) / count[:, 0]


def _decoupled(log_q: Tensor, log_p: Tensor, target: Tensor, target_weight: float, other_weight: float) -> Tensor:
    """DKD of (n, C) log-probabilities with (n, 1) target classes."""
    binary, others = [], []
    for log_x in (log_p, log_q):
        rest = log_x.scatter(1, target, -torch.inf)
        log_rest = rest.logsumexp(dim=-1, keepdim=True)
        binary.append(torch.cat([log_x.gather(1, target), log_rest], dim=1))
        others.append(rest - torch.where(log_rest.isfinite(), log_rest, 0.0))
    return target_weight * _divergence(*binary) + other_weight * _divergence(*others)


KL = Rule(_kl_value, lambda scaled, targets: targets.cross_gradient(scaled))
CROSS_ENTROPY = Rule(
    lambda scaled, targets: targets.cross(scaled), lambda scaled, targets: targets.cross_gradient(scaled)
)
REVERSE_KL = Rule(_reverse_value)
JENSEN_SHANNON = Rule(_jensen_shannon_value)
LOGIT_MSE = Rule(_logit_value)
