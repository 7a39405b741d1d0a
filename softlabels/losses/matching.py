"""Student outputs and soft labels side by side: do they speak of the same rows and classes, and which rows count?"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels, SoftLabels, SparseLabels
from softlabels.losses.targets import Targets, place

Mask: TypeAlias = Tensor | NDArray[Any] | None
"""Booleans, or weights, one a row or position; None: all count alike."""


def match(student_logits: Tensor, labels: SoftLabels, temperature: float) -> tuple[Tensor, Targets]:
    """Student logits as (N, C), and the labels beside them.

    Raises:
        InvalidArgument: they do not fit together.
        TemperatureNotStored: the labels hold no tail mass at this temperature.
    """
    logits = student_logits.flatten(0, -2) if student_logits.ndim > 2 else student_logits
    check_classes(logits, labels)
    return logits, place(labels, checked_temperature(temperature), logits.device)


def checked_temperature(temperature: float) -> float:
    """``temperature``, once it is sure to be one; else InvalidArgument."""
    if not 0 < temperature < float("inf"):
        raise InvalidArgument(f"a temperature must be positive and finite, not {temperature}")
    return temperature


def weights_of(mask: Mask, losses: Tensor) -> Tensor:
    """The mask as (N,) float32 weights."""
    if mask is None:
        return torch.ones_like(losses)
    weights = torch.as_tensor(mask, device=losses.device).flatten().float()
    if len(weights) != len(losses):
        raise InvalidArgument(f"the mask has {len(weights)} entries for {len(losses)} rows")
    return weights


def check_classes(student_logits: Tensor, labels: SoftLabels, *, width: int | None = None) -> None:
    """Raise InvalidArgument unless logits and labels speak of the same rows and classes.

    Args:
        student_logits: (N, C).
        labels: of a distribution.
        width: C, where the logits themselves are not at hand.
    """
    if isinstance(labels, DenseLabels) and labels.kind not in DISTRIBUTIONS:
        raise InvalidArgument(
            f"labels of a {labels.kind} head are numbers, not a distribution; use losses.mse, huber or cosine"
        )
    classes = student_logits.shape[-1] if width is None else width
    if student_logits.ndim != 2 or classes != labels.classes:
        raise InvalidArgument(
            f"the student gives {(*student_logits.shape[:-1], classes)}, but the labels have {labels.classes} classes"
        )
    positions = len(labels.ids) if isinstance(labels, SparseLabels) else math.prod(labels.values.shape[:-1])
    if len(student_logits) != positions:
        raise InvalidArgument(f"the student gives {len(student_logits)} rows, but there are labels for {positions}")


def reduce(losses: Tensor, weights: Tensor) -> Tensor:
    """Mean of (N,) losses by (N,) weights; 0 where there is no weight."""
    # A row that is masked out may well be infinite or NaN: padding often is.
    kept = torch.where(weights > 0, losses * weights, 0.0)
    return kept.sum() / torch.where(weights.sum() > 0, weights.sum(), 1.0)


def refuse_samples(loss: str, labels: SoftLabels) -> None:
    """Raise InvalidArgument for unbiased labels."""
    if isinstance(labels, SparseLabels) and labels.unbiased:
        raise InvalidArgument(
            f"{loss} of a sample is not that of the distribution, not even on average; with sampled or threshold "
            "labels use losses.kl or losses.cross_entropy"
        )


def require_support(loss: str, labels: SoftLabels) -> None:
    """Raise InvalidArgument for labels that leave classes without probability."""
    refuse_samples(loss, labels)
    if isinstance(labels, SparseLabels) and labels.tail == "renormalize":
        raise InvalidArgument(
            f"{loss} to labels that leave classes without probability is infinite; use tail calibrated, uniform or "
            "bucket"
        )
