"""Checks of student outputs, labels, masks, hard labels and temperatures against each other, and the mean over rows."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels, SoftLabels, SparseLabels
from softlabels.losses.blocks import Rule, mean_of_rows
from softlabels.losses.targets import Targets, place

Mask: TypeAlias = Tensor | NDArray[Any] | None
"""Booleans or weights, one per row or position; None: all count equally."""

HardLabels: TypeAlias = Tensor | NDArray[Any]
"""Class ids, one per row or position; -1 or -100 for a row without one."""

NO_LABEL = -1
"""Hard label of a row that has none."""

IGNORE_INDEX = -100
"""Value with the same meaning in torch and transformers; accepted wherever NO_LABEL is."""


def mean_over_rows(
    student_logits: Tensor,
    labels: SoftLabels,
    rule: Rule,
    *,
    temperature: float,
    mask: Mask,
    scale_by_temperature: bool,
) -> Tensor:
    """Return the mean of a per-row loss over the rows of a batch, a float32 scalar.

    Args:
        student_logits: (..., C) logits.
        labels: Labels of the same rows.
        rule: Definition of the loss.
        temperature: Temperature T.
        mask: Weights of the rows.
        scale_by_temperature: Multiply the loss by T^2.

    Raises:
        InvalidArgument: Arguments that do not fit together.
        TemperatureNotStored: The labels hold no tail mass at this temperature.
    """
    logits, targets = match(student_logits, labels, temperature)
    weights = None if mask is None else weights_of(mask, logits)
    mean = mean_of_rows(logits, targets, rule, temperature=float(temperature), weights=weights)
    return scaled(mean, temperature, scale_by_temperature=scale_by_temperature)


def scaled(loss: Tensor, temperature: float, *, scale_by_temperature: bool) -> Tensor:
    """Return the loss times T^2, which keeps the size of its gradient, or the loss itself."""
    return loss * float(temperature) ** 2 if scale_by_temperature else loss


def match(student_logits: Tensor, labels: SoftLabels, temperature: float) -> tuple[Tensor, Targets]:
    """Return student logits as (N, C), and the labels as targets on their device.

    Raises:
        InvalidArgument: Rows, classes or temperature that do not fit.
        TemperatureNotStored: The labels hold no tail mass at this temperature.
    """
    logits = student_logits.flatten(0, -2) if student_logits.ndim > 2 else student_logits
    check_classes(logits, labels)
    return logits, place(labels, checked_temperature(temperature), logits.device)


def checked_temperature(temperature: float) -> float:
    """Return ``temperature`` as a float.

    Raises:
        InvalidArgument: It is not positive and finite.
    """
    if not 0 < temperature < float("inf"):
        raise InvalidArgument(f"temperature: must be positive and finite, got {temperature}")
    return float(temperature)


def weights_of(mask: Mask, rows: Tensor) -> Tensor:
    """Return a mask as (N,) float32 weights on the device of ``rows``, (N, ...), with its gradient if it has one.

    Raises:
        InvalidArgument: Another number of entries, or weights that are negative, NaN or infinite.
    """
    if mask is None:
        return torch.ones(len(rows), device=rows.device)
    weights = _as_tensor("mask", mask).flatten()
    if len(weights) != len(rows):
        raise InvalidArgument(f"mask: got {len(weights)} entries; expected one per row, {len(rows)}")
    if weights.dtype != torch.bool and not bool(((weights >= 0) & weights.isfinite()).all()):
        row = int((~((weights >= 0) & weights.isfinite())).int().argmax())
        raise InvalidArgument(
            f"mask: row {row} has weight {float(weights[row])}; expected booleans, or weights of 0 or more"
        )
    return weights.to(rows.device).float()


def hard_labels(
    hard: HardLabels, rows: int, classes: int, device: torch.device, *, ignored: tuple[int, ...] = (IGNORE_INDEX,)
) -> Tensor:
    """Return hard labels as (N,) int64 class ids on ``device``, NO_LABEL for a row without one.

    Args:
        hard: Class ids of any integer type, booleans, or floats that hold whole numbers.
        rows: Number of rows N.
        classes: Number of classes C.
        device: Device of the student's logits.
        ignored: Values that mean the same as NO_LABEL.

    Raises:
        InvalidArgument: Another number of entries, or values that are no class ids.
    """
    ids = _as_tensor("hard labels", hard)
    shape = tuple(ids.shape)
    ids = ids.flatten()
    if len(ids) != rows:
        hint = (
            " Pass class ids (argmax over the last axis) for one-hot labels, or DenseLabels(log(p)) for probabilities."
            if rows and shape == (rows, classes)
            else ""
        )
        raise InvalidArgument(f"hard labels: got shape {shape}; expected one class id per row, {rows} in all.{hint}")
    if ids.dtype.is_floating_point and not bool((ids == ids.round()).all()):
        row = int((ids != ids.round()).int().argmax())
        raise InvalidArgument(f"hard labels: row {row} has {float(ids[row])}; expected whole numbers")
    ids = ids.detach().long()
    for value in ignored:
        ids = torch.where(ids == value, NO_LABEL, ids)
    outside = (ids < NO_LABEL) | (ids >= classes)
    if bool(outside.any()):
        row = int(outside.int().argmax())
        none = " or ".join(str(value) for value in (NO_LABEL, *ignored))
        raise InvalidArgument(
            f"hard labels: row {row} has {int(ids[row])}; expected 0 to {classes - 1}, or {none} for a row without a "
            "label. Use a mask to leave rows out"
        )
    return ids.to(device)


def check_classes(student_logits: Tensor, labels: SoftLabels, *, width: int | None = None) -> None:
    """Raise InvalidArgument unless logits and labels have the same rows and classes.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> losses.check_classes(torch.zeros(2, 3), DenseLabels(np.zeros((2, 3), np.float32)))

    Args:
        student_logits: (N, C) logits.
        labels: Labels of a distribution.
        width: Number of classes C, for callers that do not hold the logits.
    """
    if isinstance(labels, DenseLabels) and labels.kind not in DISTRIBUTIONS:
        raise InvalidArgument(
            f"labels of a {labels.kind} head are numbers, not a distribution. Use losses.mse, huber or cosine"
        )
    classes = student_logits.shape[-1] if width is None and student_logits.ndim else width
    if student_logits.ndim != 2 or classes != labels.classes:
        shape = (*student_logits.shape[:-1], classes)
        raise InvalidArgument(f"student logits: got shape {shape}; the labels have {labels.classes} classes")
    positions = len(labels.ids) if isinstance(labels, SparseLabels) else math.prod(labels.values.shape[:-1])
    if len(student_logits) != positions:
        raise InvalidArgument(f"student logits: got {len(student_logits)} rows; there are labels of {positions}")


def reduce(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of (N,) losses by (N,) weights; 0 if no row has a weight."""
    # A row that is masked out may be infinite or NaN: padding often is.
    counted = torch.where(weights > 0, losses * weights, 0.0)
    return counted.sum() / torch.where(weights.sum() > 0, weights.sum(), 1.0)


def refuse_samples(loss: str, labels: SoftLabels) -> None:
    """Raise InvalidArgument for labels that are a sample."""
    if isinstance(labels, SparseLabels) and labels.is_sample:
        raise InvalidArgument(
            f"{loss} of a sample is not that of the distribution, not even on average. With sampled, threshold "
            "or counts labels use losses.kl or losses.cross_entropy"
        )


def require_support(loss: str, labels: SoftLabels) -> None:
    """Raise InvalidArgument for labels that leave classes without probability."""
    refuse_samples(loss, labels)
    if isinstance(labels, SparseLabels) and labels.tail == "renormalize":
        raise InvalidArgument(
            f"{loss} to labels that leave classes without probability is infinite. Use tail calibrated, uniform or "
            "bucket"
        )


def require_classes(loss: str, labels: SoftLabels) -> None:
    """Raise InvalidArgument for labels that do not hold a probability for each class."""
    refuse_samples(loss, labels)
    if isinstance(labels, SparseLabels) and labels.tail == "bucket":
        raise InvalidArgument(
            f"{loss} needs a probability of each class; the bucket has none. Use tail calibrated or uniform"
        )


def _as_tensor(subject: str, values: Tensor | NDArray[Any]) -> Tensor:
    """Return booleans or real numbers as a tensor; floats as float32 or wider."""
    if isinstance(values, Tensor):
        if values.dtype.is_complex:
            raise InvalidArgument(f"{subject}: got dtype {values.dtype}; expected real numbers or booleans")
        return values.float() if values.dtype in {torch.float16, torch.bfloat16} else values
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise InvalidArgument(f"{subject}: got dtype {array.dtype}; expected real numbers or booleans")
    if array.dtype.kind == "u":
        array = np.minimum(array.astype(np.uint64), np.uint64(2**63 - 1)).astype(np.int64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
