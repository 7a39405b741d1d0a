"""The sanity gate: looks at what a teacher says about a few rows before a single unit is written.

A broken teacher labels a whole dataset without complaint: uniform outputs for days (Relax pull request 287), zeros for
inputs that were too long (distillKitPlus). The gate runs up to 64 rows, spread evenly over the dataset, through the
teacher twice, and refuses outputs that cannot be labels. It costs two batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidLogits, TeacherRejected
from softlabels.models import Model
from softlabels.sources import Source

SAMPLE = 64
"""Rows looked at."""

FLAT = 1e-6
"""A spread of logits (maximum minus minimum) below this, relative to their size, is no opinion."""

REPEATABLE = 1e-2
"""Two passes over one batch may differ by this much relative to the spread of the logits; dropout differs by far more,
the order of floating-point additions by far less."""


def check_teacher(teacher: Model, source: Source, *, classes: int, extra_classes: bool = False) -> None:
    """Raise unless the teacher's outputs on a sample look like labels for this data.

    Args:
        teacher: the model about to label ``source``.
        source: the data.
        classes: width of the teacher's output.
        extra_classes: the teacher may know classes that the hard labels do not show.

    Raises:
        InvalidArgument: the class count is not that of the hard labels.
        InvalidLogits: outputs of another shape, or not finite; names the row.
        TeacherRejected: outputs constant, independent of the input, or different each time.
    """
    _check_classes(classes, source, extra_classes=extra_classes)
    rows = np.unique(np.linspace(0, len(source) - 1, num=min(SAMPLE, len(source))).astype(np.int64))
    inputs = source.inputs(rows)
    logits = teacher.logits(inputs).double().cpu().numpy()
    if logits.ndim != 2 or logits.shape != (len(rows), classes):
        raise InvalidLogits(
            f"the teacher gives outputs of shape {logits.shape} for {len(rows)} rows; expected ({len(rows)}, {classes})"
        )
    # -inf is a legitimate way to rule a class out; NaN, +inf and a row without any finite logit are not.
    bad = np.isnan(logits).any(axis=1) | np.isposinf(logits).any(axis=1) | ~np.isfinite(logits).any(axis=1)
    if bad.any():
        raise InvalidLogits(
            f"the teacher's logits for row {rows[bad.argmax()]} are not finite ({bad.sum()} of {len(rows)} tried): "
            "look for overflow (half precision?) or damaged weights"
        )
    _check_opinion(np.where(np.isfinite(logits), logits, 0.0), inputs)
    again = np.nan_to_num(teacher.logits(inputs).double().cpu().numpy(), neginf=0.0)
    difference = np.abs(again - np.where(np.isfinite(logits), logits, 0.0)).max()
    if difference > REPEATABLE * max(float(np.ptp(again)), 1e-12):
        raise TeacherRejected(
            f"the teacher answers differently each time (logits differ by up to {difference:.3g} between two passes). "
            "Is something random at inference, such as dropout applied by function? Use --no-gate to label anyway"
        )


def _check_classes(classes: int, source: Source, *, extra_classes: bool) -> None:
    shown = source.classes
    if shown is None or shown == classes or (extra_classes and shown < classes):
        return
    hint = (
        "choose the teacher for this data, or another label column with --label"
        if shown > classes
        else "if the teacher knows more classes than this data shows, say so with --extra-classes"
    )
    raise InvalidArgument(f"the teacher has {classes} classes, the labels of {source.spec} show {shown}: {hint}")


def _check_opinion(logits: NDArray[np.float64], inputs: NDArray[np.generic]) -> None:
    """Raise where the outputs are flat within each row, or the same for each row though the inputs differ."""
    scale = max(float(np.abs(logits).max()), 1.0)
    if logits.shape[1] > 1 and (np.ptp(logits, axis=1) <= FLAT * scale).all():
        raise TeacherRejected(
            f"the teacher gives each class the same logit, for all {len(logits)} rows tried: it has no opinion. "
            "Are its weights loaded? Use --no-gate to label anyway"
        )
    inputs_differ = bool((inputs != inputs[:1]).any())
    if inputs_differ and (np.ptp(logits, axis=0) <= FLAT * scale).all():
        raise TeacherRejected(
            f"the teacher gives the same output for each of {len(logits)} different rows: it does not look at its "
            "input. Is the preprocessing right (scale, channels)? Use --no-gate to label anyway"
        )
