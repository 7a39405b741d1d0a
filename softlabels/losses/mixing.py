"""Soft and hard labels in one loss."""

from __future__ import annotations

from torch import Tensor

from softlabels.errors import InvalidArgument
from softlabels.labels import SoftLabels
from softlabels.losses.divergences import cross_entropy, kl
from softlabels.losses.matching import HardLabels, Mask
from softlabels.losses.registry import loss


@loss(samples=True, hard=True)
def distillation(
    student_logits: Tensor,
    labels: SoftLabels,
    hard: HardLabels | None = None,
    *,
    temperature: float = 1.0,
    alpha: float = 0.9,
    mask: Mask = None,
) -> Tensor:
    """Return alpha * T^2 * KL to the teacher + (1 - alpha) * cross-entropy with hard labels (Hinton et al. 2015).

    A part with weight 0 is not computed.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.zeros((1, 4), np.float32))
        >>> round(losses.distillation(torch.zeros(1, 4), labels, np.array([2]), alpha=0.5).item(), 4)
        0.6931

    Args:
        student_logits: (..., C) logits of any float dtype.
        labels: Soft labels of the same rows.
        hard: (N,) class ids, -1 or -100 for a row without one. None: there are none, and the loss is alpha times the
            soft part.
        temperature: Temperature of the KL.
        alpha: Weight of the soft labels, 0 to 1.
        mask: Weights of the rows in both parts, as for ``kl``.

    Raises:
        InvalidArgument: As ``kl`` and ``cross_entropy``; also for alpha outside 0 to 1, or alpha = 0 without hard
            labels.
        TemperatureNotStored: As ``kl``.
    """
    if not 0 <= alpha <= 1:
        raise InvalidArgument(f"alpha: weight of the soft labels, got {alpha}; expected 0 to 1")
    if alpha == 0 and hard is None:
        raise InvalidArgument("alpha: got 0, which uses hard labels alone, but there are none. Pass hard labels")
    parts = []
    if alpha > 0:
        parts.append(alpha * kl(student_logits, labels, temperature=temperature, mask=mask))
    if hard is not None and alpha < 1:
        parts.append((1 - alpha) * cross_entropy(student_logits, hard, mask=mask))
    return sum(parts[1:], parts[0])
