"""Losses between two distributions over classes: the teacher's, as its labels reconstruct it, and the student's.

Values and gradients are exact for every encoding and tail model for which they are finite. A loss that would always be
infinite raises an error instead (a reverse KL to labels that leave classes without probability). ``kl`` and
``cross_entropy`` are linear in p^, so they are right on average for labels that are a sample (``sampled``,
``threshold``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from softlabels.labels import DenseLabels, SoftLabels, SparseLabels
from softlabels.losses.blocks import ClosedForm, Differentiated, mean_of_rows
from softlabels.losses.matching import (
    NO_LABEL,
    HardLabels,
    Mask,
    hard_labels,
    mean_over_rows,
    refuse_samples,
    require_support,
    weights_of,
)
from softlabels.losses.predictions import Predictions
from softlabels.losses.registry import loss
from softlabels.losses.targets import Targets


@loss(samples=True)
def kl(
    student_logits: Tensor,
    labels: SoftLabels,
    *,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Return the forward KL from the teacher's labels to the student, KL(p^_T || q_T), mean over rows, in nats.

    No (N, C) target is built for sparse labels (docs/fidelity.md, eq. 7). The gradient with respect to the logits is
    T (q - p^). Classes that the student rules out, by a logit of -inf, take no share of the tail; the loss is infinite
    if the labels list such a class with a probability above 0.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.array([[2.0, 0.0, 0.0]], np.float32))
        >>> round(losses.kl(torch.zeros(1, 3), labels).item(), 4)
        0.433

    Args:
        student_logits: (N, C), or (..., C) with N positions in all. Any float dtype, reduced in float32.
        labels: Labels of the same N rows; of ragged rows N counts positions.
        temperature: Temperature T > 0; for sparse labels one of ``labels.temperatures``.
        mask: N booleans, or weights of 0 or more, of any shape. The loss is the weighted mean. None: all rows count.
        scale_by_temperature: Multiply by T^2, which keeps the size of the gradient (Hinton, Vinyals, Dean 2015).

    Returns:
        A float32 scalar; 0 if the mask leaves no row.

    Raises:
        InvalidArgument: Labels of another number of rows or classes, or not of a distribution; an invalid mask.
        TemperatureNotStored: The labels hold no tail mass at this temperature.
    """
    return mean_over_rows(
        student_logits, labels, KL, temperature=temperature, mask=mask, scale_by_temperature=scale_by_temperature
    )


@loss(samples=True)
def cross_entropy(
    student_logits: Tensor,
    target: HardLabels | SoftLabels,
    *,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Return the cross-entropy with hard or soft labels, in nats.

    For soft labels it is H(p^_T, q_T), the KL and a constant. For hard labels it is the mean over the rows that have
    one, at T = 1.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> round(losses.cross_entropy(torch.zeros(2, 4), np.array([3, -1])).item(), 4)
        1.3863

    Args:
        student_logits: (..., C) logits of any float dtype.
        target: (N,) class ids, -1 or -100 for a row without one; or soft labels.
        temperature: Temperature T of soft labels, as for ``kl``.
        mask: Weights of the rows, as for ``kl``.
        scale_by_temperature: Multiply the loss of soft labels by T^2.

    Raises:
        InvalidArgument: As ``kl``; or hard labels that are not class ids.
        TemperatureNotStored: As ``kl``.
    """
    if isinstance(target, DenseLabels | SparseLabels):
        return mean_over_rows(
            student_logits,
            target,
            CROSS_ENTROPY,
            temperature=temperature,
            mask=mask,
            scale_by_temperature=scale_by_temperature,
        )
    logits = student_logits.flatten(0, -2) if student_logits.ndim > 1 else student_logits[None]
    ids = hard_labels(target, len(logits), logits.shape[1], logits.device)
    is_labelled = ids != NO_LABEL
    weights: Tensor | None = None
    if mask is not None or not bool(is_labelled.all()):
        weights = is_labelled.float() * weights_of(mask, logits)
    return mean_of_rows(logits, _HardTargets(ids.clamp_min(0)), HARD_CROSS_ENTROPY, weights=weights)


@loss()
def reverse_kl(
    student_logits: Tensor,
    labels: SoftLabels,
    *,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Return the reverse KL, KL(q_T || p^_T), mean over rows, in nats.

    The student may leave modes of the teacher out (MiniLLM, arXiv 2306.08543). The loss is infinite if the teacher
    rules a class out and the student does not.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.array([[2.0, 0.0, 0.0]], np.float32))
        >>> round(losses.reverse_kl(torch.zeros(1, 3), labels).item(), 4)
        0.4743

    Args:
        student_logits: As for ``kl``.
        labels: As for ``kl``.
        temperature: As for ``kl``.
        mask: As for ``kl``.
        scale_by_temperature: As for ``kl``.

    Raises:
        InvalidArgument: As ``kl``; also for labels that leave classes without probability (renormalize, unbiased ones).
        TemperatureNotStored: As ``kl``.
    """
    require_support("the reverse KL", labels)
    return mean_over_rows(
        student_logits,
        labels,
        REVERSE_KL,
        temperature=temperature,
        mask=mask,
        scale_by_temperature=scale_by_temperature,
    )


@loss()
def jensen_shannon(
    student_logits: Tensor,
    labels: SoftLabels,
    *,
    temperature: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Return the Jensen-Shannon divergence of p^_T and q_T, mean over rows, in nats.

    It is at most log 2 (GKD, arXiv 2306.13649).

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.array([[2.0, 0.0, 0.0]], np.float32))
        >>> round(losses.jensen_shannon(torch.zeros(1, 3), labels).item(), 4)
        0.1087

    Args:
        student_logits: As for ``kl``.
        labels: As for ``kl``.
        temperature: As for ``kl``.
        mask: As for ``kl``.
        scale_by_temperature: As for ``kl``.

    Raises:
        InvalidArgument: As ``kl``; also for unbiased labels, for which it is not right on average.
        TemperatureNotStored: As ``kl``.
    """
    refuse_samples("the Jensen-Shannon divergence", labels)
    return mean_over_rows(
        student_logits,
        labels,
        JENSEN_SHANNON,
        temperature=temperature,
        mask=mask,
        scale_by_temperature=scale_by_temperature,
    )


@dataclass(frozen=True)
class _HardTargets:
    """Hard labels of N rows, (N,) int64."""

    ids: Tensor

    def rows(self, start: int, stop: int) -> _HardTargets:
        return _HardTargets(self.ids[start:stop])

    def value_and_gradient(self, student: Predictions) -> tuple[Tensor, Tensor]:
        ids = self.ids[:, None]
        value = -student.log_probs_of(ids)[:, 0]
        return value, student.probs.scatter_add_(1, ids, value.new_full((), -1.0).expand(ids.shape))


def divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return KL(a || b) over the last axis; an outcome without probability in a adds nothing, whatever b is."""
    is_impossible = log_a.exp() == 0
    safe_a, safe_b = log_a.masked_fill(is_impossible, 0.0), log_b.masked_fill(is_impossible, 0.0)
    return (safe_a.exp() * (safe_a - safe_b)).masked_fill(is_impossible, 0.0).sum(dim=-1)


def _reverse_value(log_q: Tensor, targets: Targets) -> Tensor:
    return divergence(*targets.outcomes(log_q))


def _jensen_shannon_value(log_q: Tensor, targets: Targets) -> Tensor:
    log_q, log_p = targets.outcomes(log_q)
    # Outcomes that both rule out have no middle; the logarithm of 0 + 0 would have a gradient of NaN.
    is_impossible = log_q.isneginf() & log_p.isneginf()
    safe_q, safe_p = log_q.masked_fill(is_impossible, 0.0), log_p.masked_fill(is_impossible, 0.0)
    middle = torch.logaddexp(safe_q, safe_p) - math.log(2)
    return 0.5 * (divergence(log_p, middle) + divergence(log_q, middle))


def _soft_cross_entropy(student: Predictions, targets: Targets) -> tuple[Tensor, Tensor]:
    log_q = student.log_probs()
    return targets.cross_entropy(log_q), targets.gradient(log_q)


KL = ClosedForm(lambda student, targets: targets.kl_and_gradient(student))
CROSS_ENTROPY = ClosedForm(_soft_cross_entropy)
HARD_CROSS_ENTROPY = ClosedForm(lambda student, targets: targets.value_and_gradient(student))
REVERSE_KL = Differentiated(_reverse_value)
JENSEN_SHANNON = Differentiated(_jensen_shannon_value)
