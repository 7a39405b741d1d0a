"""DKD: decoupled knowledge distillation (Zhao et al. 2022, arXiv 2203.08679)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softlabels.labels import SoftLabels
from softlabels.losses.blocks import Differentiated, mean_of_rows
from softlabels.losses.divergences import divergence
from softlabels.losses.log_arithmetic import logsumexp
from softlabels.losses.matching import (
    NO_LABEL,
    HardLabels,
    Mask,
    hard_labels,
    match,
    require_classes,
    scaled,
    weights_of,
)
from softlabels.losses.registry import loss
from softlabels.losses.targets import Targets


@loss(hard=True)
def dkd(
    student_logits: Tensor,
    labels: SoftLabels,
    hard: HardLabels | None = None,
    *,
    temperature: float = 1.0,
    target_weight: float = 1.0,
    other_weight: float = 8.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Return the loss of decoupled knowledge distillation (eq. 7 of the paper), mean over rows, in nats.

    It is target_weight * KL of (target, rest) + other_weight * KL among the other classes.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.array([[2.0, 0.0, 0.0]], np.float32))
        >>> round(losses.dkd(torch.zeros(1, 3), labels, np.array([0])).item(), 4)
        0.433

    Args:
        student_logits: (..., C) logits of any float dtype.
        labels: Labels of the same rows.
        hard: (N,) target classes. The teacher's likeliest class stands in where it is -1, or for None.
        temperature: As for ``kl``.
        target_weight: Weight of the first part, alpha in the paper.
        other_weight: Weight of the second part, beta in the paper.
        mask: As for ``kl``.
        scale_by_temperature: As for ``kl``.

    Raises:
        InvalidArgument: As ``kl``; also for hard labels that are not class ids, and for unbiased labels or a bucket,
            which hold no probability of each class.
        TemperatureNotStored: As ``kl``.
    """
    require_classes("DKD", labels)
    logits, targets = match(student_logits, labels, temperature)
    if hard is None:
        ids = torch.full((len(logits),), NO_LABEL, device=logits.device)
    else:
        ids = hard_labels(hard, len(logits), logits.shape[1], logits.device, ignored=())

    def value(log_q: Tensor, block: _TargetedRows) -> Tensor:
        log_p = block.targets.log_probs(log_q)
        target = torch.where(block.ids == NO_LABEL, log_p.argmax(dim=-1), block.ids)[:, None]
        return _decoupled(log_q, log_p, target, target_weight, other_weight)

    weights = None if mask is None else weights_of(mask, logits)
    rows = _TargetedRows(targets, ids)
    mean = mean_of_rows(logits, rows, Differentiated(value), temperature=float(temperature), weights=weights)
    return scaled(mean, temperature, scale_by_temperature=scale_by_temperature)


@dataclass(frozen=True)
class _TargetedRows:
    """Soft targets and a hard label for each row."""

    targets: Targets
    ids: Tensor

    def rows(self, start: int, stop: int) -> _TargetedRows:
        return _TargetedRows(self.targets.rows(start, stop), self.ids[start:stop])


def _decoupled(log_q: Tensor, log_p: Tensor, target: Tensor, target_weight: float, other_weight: float) -> Tensor:
    """Return the DKD of (n, C) log-probabilities with (n, 1) target classes."""
    binary, others = [], []
    for log_x in (log_p, log_q):
        rest = log_x.scatter(1, target, -torch.inf)
        log_rest = logsumexp(rest)[:, None]
        binary.append(torch.cat([log_x.gather(1, target), log_rest], dim=1))
        others.append(rest - torch.where(log_rest.isneginf(), 0.0, log_rest))
    return target_weight * divergence(*binary) + other_weight * divergence(*others)
