"""The KL of a linear layer's output, without holding that output."""

from __future__ import annotations

from torch import Tensor

from softlabels.labels import SoftLabels
from softlabels.losses.blocks import per_row_of_linear
from softlabels.losses.divergences import KL
from softlabels.losses.matching import Mask, check_classes, checked_temperature, reduce, scaled, weights_of
from softlabels.losses.targets import place


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

    A few MiB of logits exist at a time and are computed again in the backward pass. Beside the gradients of the
    arguments, memory does not depend on N times C. Value and gradients are those of ``kl``. Under autocast the products
    are in its dtype, and the loss of them in float32.

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
    losses = per_row_of_linear(flat, weight, bias, targets, KL, float(temperature))
    return scaled(reduce(losses, weights_of(mask, losses)), temperature, scale_by_temperature=scale_by_temperature)
