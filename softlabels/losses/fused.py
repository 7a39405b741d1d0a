"""Losses of a linear layer's output, without holding that output."""

from __future__ import annotations

from torch import Tensor

from softlabels.errors import InvalidArgument
from softlabels.labels import SoftLabels
from softlabels.losses.blocks import ClosedForm, mean_of_linear_rows
from softlabels.losses.divergences import KL
from softlabels.losses.matching import (
    HardLabels,
    Mask,
    check_classes,
    checked_temperature,
    hard_labels,
    scaled,
    weights_of,
)
from softlabels.losses.targets import MixedTargets, place

MIXED = ClosedForm(lambda student, targets: targets.value_and_gradient(student))


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
    """Return ``kl`` of logits = states @ weight.T + bias, which are never held as a whole.

    A few MiB of logits exist at a time, and the gradients of the arguments are computed beside the loss. Apart from
    them, memory does not depend on N times C. Value and gradients are those of ``kl``. Under autocast the products are
    in its dtype, and the loss of them in float32.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.zeros((4, 10), np.float32))
        >>> losses.linear_kl(torch.zeros(4, 8), torch.ones(10, 8), labels).item()
        0.0

    Args:
        states: (..., D) inputs of the student's last linear layer.
        weight: (C, D) weight of that layer.
        labels: Labels of the same N rows.
        bias: (C,) bias of that layer; -inf rules a class out.
        temperature: As for ``kl``.
        mask: As for ``kl``.
        scale_by_temperature: As for ``kl``.

    Returns:
        A float32 scalar.

    Raises:
        InvalidArgument: As ``kl``.
        TemperatureNotStored: As ``kl``.
    """
    flat = states.flatten(0, -2)
    check_classes(flat.new_empty(0).expand(len(flat), 0), labels, width=len(weight))
    targets = place(labels, checked_temperature(temperature), flat.device)
    weights = None if mask is None else weights_of(mask, flat)
    mean = mean_of_linear_rows(flat, weight, bias, targets, KL, temperature=float(temperature), weights=weights)
    return scaled(mean, temperature, scale_by_temperature=scale_by_temperature)


def linear_distillation(
    states: Tensor,
    weight: Tensor,
    labels: SoftLabels,
    hard: HardLabels,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    alpha: float = 0.9,
    mask: Mask = None,
) -> Tensor:
    """Return ``distillation`` of logits = states @ weight.T + bias, which are never held as a whole.

    Both parts come from the same logits, which are most of the cost: the loss takes about the time of ``linear_kl``
    alone.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.zeros((1, 4), np.float32))
        >>> states, weight = torch.zeros(1, 8), torch.ones(4, 8)
        >>> round(losses.linear_distillation(states, weight, labels, np.array([2]), alpha=0.5).item(), 4)
        0.6931

    Args:
        states: As for ``linear_kl``.
        weight: As for ``linear_kl``.
        labels: Labels of the same N rows.
        hard: (N,) class ids.
        bias: As for ``linear_kl``.
        temperature: Temperature T of the soft labels.
        alpha: Weight of the soft labels, 0 to 1.
        mask: Weights of the rows in both parts, as for ``kl``.

    Returns:
        A float32 scalar.

    Raises:
        InvalidArgument: As ``kl``; also for a row without a hard label, or alpha outside 0 to 1.
        TemperatureNotStored: As ``kl``.
    """
    if not 0 <= alpha <= 1:
        raise InvalidArgument(f"alpha: weight of the soft labels, got {alpha}; expected 0 to 1")
    flat = states.flatten(0, -2)
    check_classes(flat.new_empty(0).expand(len(flat), 0), labels, width=len(weight))
    ids = hard_labels(hard, len(flat), len(weight), flat.device)
    if bool((ids < 0).any()):
        raise InvalidArgument(
            f"hard labels: row {int((ids < 0).int().argmax())} has none; expected a class id for each row. Leave rows "
            "out with a mask, or use linear_kl"
        )
    soft = place(labels, checked_temperature(temperature), flat.device)
    targets = MixedTargets(soft=soft, hard=ids, alpha=alpha, temperature=float(temperature))
    weights = None if mask is None else weights_of(mask, flat)
    return mean_of_linear_rows(flat, weight, bias, targets, MIXED, temperature=float(temperature), weights=weights)
