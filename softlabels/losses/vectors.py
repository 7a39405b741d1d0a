"""Losses for heads that are numbers: regression and embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels, SoftLabels
from softlabels.losses.matching import Mask, reduce, weights_of


def mse(student: Tensor, labels: SoftLabels, *, mask: Mask = None) -> Tensor:
    """Mean squared difference over the numbers of a row, mean over rows.

    Args:
        student: (..., C), any float dtype, reduced in float32.
        labels: dense, of the same rows.
        mask: N booleans, or weights.

    Raises:
        InvalidArgument: labels of another shape, or sparse ones.
    """
    mine, theirs = _match(student, labels)
    losses = ((mine - theirs) ** 2).mean(dim=-1)
    return reduce(losses, weights_of(mask, losses))


def huber(student: Tensor, labels: SoftLabels, *, delta: float = 1.0, mask: Mask = None) -> Tensor:
    """Huber's loss (1964): squared up to ``delta``, linear beyond; mean over the numbers of a row, mean over rows.

    Args:
        student: (..., C).
        labels: dense, of the same rows.
        delta: above 0, in the units of the labels.
        mask: N booleans, or weights.

    Raises:
        InvalidArgument: labels of another shape, sparse ones, or a delta that is not above 0.
    """
    if not 0 < delta < float("inf"):
        raise InvalidArgument(f"Huber's delta must be above 0 and finite, not {delta}")
    mine, theirs = _match(student, labels)
    losses = functional.huber_loss(mine, theirs, delta=delta, reduction="none").mean(dim=-1)
    return reduce(losses, weights_of(mask, losses))


def cosine(student: Tensor, labels: SoftLabels, *, mask: Mask = None) -> Tensor:
    """1 - cosine of the angle between embeddings, mean over rows; 1 where one is zero.

    Args:
        student: (..., C).
        labels: dense, of the same rows.
        mask: N booleans, or weights.

    Raises:
        InvalidArgument: labels of another shape, or sparse ones.
    """
    mine, theirs = _match(student, labels)
    losses = 1 - functional.cosine_similarity(mine, theirs, dim=-1)
    return reduce(losses, weights_of(mask, losses))


def _match(student: Tensor, labels: SoftLabels) -> tuple[Tensor, Tensor]:
    """Both as (N, C) float32."""
    if not isinstance(labels, DenseLabels):
        raise InvalidArgument("sparse labels are a distribution, not numbers; use losses.kl")
    mine = student.reshape(-1, student.shape[-1]).float()
    theirs = torch.as_tensor(labels.values, device=student.device).float().reshape(-1, labels.classes)
    if mine.shape != theirs.shape:
        raise InvalidArgument(f"the student gives {tuple(mine.shape)}, but the labels are {tuple(theirs.shape)}")
    return mine, theirs
