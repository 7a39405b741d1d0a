"""Distillation losses: from what the teacher said to a number the student can follow.

The forward KL is computed in closed form from sparse labels (docs/fidelity.md, eq. 4): one logsumexp and one product
with the tail prior over the student's logits, one gather of K columns. No (B, C) target is ever built and the gradient
with respect to the logits, T * (q - p^) after the T^2 scaling, is exact. All sums are in float32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels, SoftLabels, SparseLabels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_LABEL = -1
"""A hard label of a row that has none."""


def kl(
    student_logits: Tensor, labels: SoftLabels, *, temperature: float = 1.0, scale_by_temperature: bool = True
) -> Tensor:
    """Forward KL from the teacher's labels to the student, KL(p^_T || q_T), mean over rows, in nats.

    Args:
        student_logits: (B, C), any float dtype; reduced in float32.
        labels: dense, or K listed classes a row with their tail.
        temperature: T > 0; for sparse labels one of ``labels.temperatures``.
        scale_by_temperature: multiply by T^2, which keeps the size of the gradient (Hinton, Vinyals, Dean 2015).

    Returns:
        A scalar.

    Raises:
        InvalidArgument: labels of another number of rows or classes, or not of a distribution.
        TemperatureNotStored: the labels hold no tail mass at this temperature.
    """
    check_classes(student_logits, labels)
    if not 0 < temperature < float("inf"):
        raise InvalidArgument(f"a temperature must be positive and finite, not {temperature}")
    scaled = student_logits.float() / temperature
    if isinstance(labels, DenseLabels):
        per_row = _kl_dense(scaled, labels, temperature)
    elif labels.unbiased or labels.tail in {"renormalize", "bucket"}:
        per_row = _kl_listed(scaled, labels, temperature)
    else:
        per_row = _kl_tail(scaled, labels, temperature)
    loss = per_row.mean()
    return loss * temperature**2 if scale_by_temperature else loss


def cross_entropy(student_logits: Tensor, hard: Tensor | NDArray[np.int64]) -> Tensor:
    """Cross-entropy with hard labels, mean over the rows that have one, in nats; 0 where no row does.

    Args:
        student_logits: (B, C).
        hard: (B,) class numbers, -1 where a row has none.
    """
    target = torch.as_tensor(hard, device=student_logits.device)
    total = functional.cross_entropy(student_logits.float(), target, ignore_index=NO_LABEL, reduction="sum")
    return total / (target != NO_LABEL).sum().clamp_min(1)


def distillation(
    student_logits: Tensor,
    labels: SoftLabels,
    hard: Tensor | NDArray[np.int64] | None = None,
    *,
    temperature: float = 1.0,
    alpha: float = 0.9,
) -> Tensor:
    """Alpha * T^2 * KL to the teacher + (1 - alpha) * cross-entropy with hard labels (Hinton, Vinyals, Dean 2015).

    Args:
        student_logits: (B, C).
        labels: what the teacher said of these rows.
        hard: (B,) class numbers, -1 where a row has none; None: there are none at all.
        temperature: of the KL.
        alpha: weight of the soft labels, 0 to 1.

    Raises:
        InvalidArgument: as kl, or alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise InvalidArgument(f"alpha weighs soft against hard labels and lies between 0 and 1; it is {alpha}")
    soft = kl(student_logits, labels, temperature=temperature)
    if hard is None:
        return alpha * soft
    return alpha * soft + (1 - alpha) * cross_entropy(student_logits, hard)


def check_classes(student_logits: Tensor, labels: SoftLabels) -> None:
    """Raise InvalidArgument unless logits and labels speak of the same rows and classes."""
    if isinstance(labels, DenseLabels) and labels.kind not in DISTRIBUTIONS:
        raise InvalidArgument(f"labels of a {labels.kind} head are numbers, not a distribution: KL is not defined")
    if student_logits.ndim != 2 or student_logits.shape[1] != labels.classes:
        raise InvalidArgument(
            f"the student gives {tuple(student_logits.shape)}, but the labels have {labels.classes} classes"
        )
    if len(student_logits) != len(labels):
        raise InvalidArgument(f"the student gives {len(student_logits)} rows, but there are labels for {len(labels)}")


def _kl_dense(scaled: Tensor, labels: DenseLabels, temperature: float) -> Tensor:
    """KL from all logits; a class the teacher ruled out (-inf) contributes nothing."""
    teacher = torch.as_tensor(labels.values, device=scaled.device).float() / temperature
    log_p = teacher.log_softmax(dim=-1)
    log_q = scaled.log_softmax(dim=-1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1)


def _kl_listed(scaled: Tensor, labels: SparseLabels, temperature: float) -> Tensor:
    """KL over the listed classes alone: renormalised, as samples, or with the rest as one more outcome (bucket)."""
    ids, log_p, valid, log_tail = _listed(scaled.device, labels, temperature)
    log_normalizer = scaled.logsumexp(dim=-1, keepdim=True)
    log_q = scaled.gather(1, ids) - log_normalizer
    if labels.tail == "renormalize" and not labels.unbiased:
        log_p = log_p - log_p.logsumexp(dim=-1, keepdim=True)
    p = log_p.exp()
    total = torch.where(valid, p * (log_p - log_q), 0.0).sum(dim=-1)
    if labels.tail != "bucket" or labels.unbiased:
        return total
    # Padding has id 0, which stays in the complement unless it is listed too: hence a maximum, not a plain scatter.
    listed = torch.zeros_like(scaled, dtype=torch.uint8).scatter_reduce(1, ids, valid.byte(), reduce="amax")
    log_q_tail = scaled.masked_fill(listed.bool(), -torch.inf).logsumexp(dim=-1) - log_normalizer[:, 0]
    return total + torch.where(log_tail.isfinite(), log_tail.exp() * (log_tail - log_q_tail), 0.0)


def _kl_tail(scaled: Tensor, labels: SparseLabels, temperature: float) -> Tensor:
    """KL to the listed classes plus a tail that follows the prior: docs/fidelity.md, eq. 4."""
    ids, log_p, valid, log_tail = _listed(scaled.device, labels, temperature)
    log_normalizer = scaled.logsumexp(dim=-1)
    log_q = scaled.gather(1, ids) - log_normalizer[:, None]
    p = log_p.exp()
    listed = torch.where(valid, p * (log_p - log_q), 0.0).sum(dim=-1)

    index = labels.temperature_index(temperature)
    if labels.prior is None or labels.tail == "uniform":
        negative_entropy = scaled.new_tensor(-math.log(labels.classes))
        log_pi_listed = negative_entropy.expand_as(log_p)
        mean_logit = scaled.mean(dim=-1)
    else:
        pi = torch.as_tensor(labels.prior[index], device=scaled.device)
        log_pi_listed = pi[ids].log()
        mean_logit = scaled @ pi
        negative_entropy = torch.special.entr(pi.double()).sum().neg().float()
    pi_listed = torch.where(valid, log_pi_listed.exp(), 0.0)
    # The prior is nowhere 0, so what is left is 0 only where every class is listed, and then the tail is empty too.
    rest = (1.0 - pi_listed.double().sum(dim=-1)).clamp_min(1e-12).float()
    weight = log_tail.exp() / rest
    cross = mean_logit - log_normalizer - (pi_listed * log_q.nan_to_num(neginf=0.0)).sum(dim=-1)
    own = negative_entropy - torch.where(valid, pi_listed * log_pi_listed, 0.0).sum(dim=-1)
    tail = log_tail.exp() * (log_tail - rest.log()) + weight * (own - cross)
    return listed + torch.where(log_tail.isfinite(), tail, 0.0)


def _listed(device: torch.device, labels: SparseLabels, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, log p_T of the listed classes, which of them are no padding, and the log tail mass, on ``device``."""
    index = labels.temperature_index(temperature)
    ids = torch.as_tensor(labels.ids, device=device)
    values = torch.as_tensor(labels.values, device=device).float()
    log_tail = torch.as_tensor(labels.log_tail, device=device)[:, index]
    valid = values.isfinite()
    if labels.unbiased:
        return ids, values, valid, log_tail
    scaled = values / temperature
    # log(1 - exp(r)) without cancellation.
    log_listed_mass = torch.where(
        log_tail > -0.6931, torch.log(-torch.expm1(log_tail)), torch.log1p(-torch.exp(log_tail))
    )
    return ids, scaled - scaled.logsumexp(dim=-1, keepdim=True) + log_listed_mass[:, None], valid, log_tail
