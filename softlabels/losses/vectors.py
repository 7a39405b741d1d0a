"""Losses for heads that are numbers: regression and embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels, SoftLabels
from softlabels.losses.blocks import without_autocast
from softlabels.losses.matching import Mask, reduce, weights_of
from softlabels.losses.registry import NUMBERS, loss


@loss(kinds=NUMBERS, temperature=False)
def mse(student: Tensor, labels: SoftLabels, *, mask: Mask = None) -> Tensor:
    """Return the mean squared difference over the numbers of a row, mean over rows.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> losses.mse(torch.ones(2, 3), DenseLabels(np.zeros((2, 3), np.float32), "regression")).item()
        1.0

    Args:
        student: (..., C) outputs of any float dtype, reduced in float32.
        labels: Dense labels of the same rows.
        mask: N booleans, or weights of 0 or more. None: all rows count.

    Returns:
        A float32 scalar.

    Raises:
        InvalidArgument: Labels of another shape, or sparse ones; an invalid mask.
    """
    with without_autocast(student):
        output, target, weights = _match(student, labels, mask)
        return reduce(((output - target) ** 2).mean(dim=-1), weights)


@loss(kinds=NUMBERS, temperature=False)
def huber(student: Tensor, labels: SoftLabels, *, delta: float = 1.0, mask: Mask = None) -> Tensor:
    """Return Huber's loss (1964), squared up to ``delta`` and linear beyond, mean over numbers and over rows.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> losses.huber(torch.full((1, 2), 3.0), DenseLabels(np.zeros((1, 2), np.float32), "regression")).item()
        2.5

    Args:
        student: As for ``mse``.
        labels: As for ``mse``.
        delta: Difference above 0, in the units of the labels, from which on the loss is linear.
        mask: As for ``mse``.

    Returns:
        A float32 scalar.

    Raises:
        InvalidArgument: As ``mse``; also for a delta that is not above 0.
    """
    if not 0 < delta < float("inf"):
        raise InvalidArgument(f"Huber's delta must be above 0 and finite, got {delta}")
    with without_autocast(student):
        output, target, weights = _match(student, labels, mask)
        return reduce(functional.huber_loss(output, target, delta=delta, reduction="none").mean(dim=-1), weights)


@loss(kinds=NUMBERS, temperature=False)
def cosine(student: Tensor, labels: SoftLabels, *, mask: Mask = None) -> Tensor:
    """Return 1 - cosine of the angle between embeddings, mean over rows; 1 for a row of zeros.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.array([[0.0, 2.0]], np.float32), "embedding")
        >>> losses.cosine(torch.tensor([[1.0, 0.0]]), labels).item()
        1.0

    Args:
        student: As for ``mse``.
        labels: As for ``mse``.
        mask: As for ``mse``.

    Returns:
        A float32 scalar.

    Raises:
        InvalidArgument: As ``mse``.
    """
    with without_autocast(student):
        output, target, weights = _match(student, labels, mask)
        return reduce(1 - functional.cosine_similarity(output, target, dim=-1), weights)


def _match(student: Tensor, labels: SoftLabels, mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs and labels as (N, C) float32, and the weights of the rows, (N,); rows of weight 0 are 0."""
    if not isinstance(labels, DenseLabels):
        raise InvalidArgument("sparse labels are a distribution, not numbers. Use losses.kl")
    output = student.reshape(-1, student.shape[-1]).float()
    target = torch.as_tensor(labels.values, device=student.device).float().reshape(-1, labels.classes)
    if output.shape != target.shape:
        raise InvalidArgument(f"student: got shape {tuple(output.shape)}; the labels are {tuple(target.shape)}")
    weights = weights_of(mask, output.detach()[:, 0])
    # A row that is masked out may hold NaN, whose gradient would be NaN too.
    is_out = (weights == 0)[:, None]
    return output.masked_fill(is_out, 0.0), target.masked_fill(is_out, 0.0), weights
