"""The sanity gate: checks of a teacher's outputs for a few rows before the first unit is written.

A broken teacher labels a whole dataset without an error: uniform outputs for days, zeros for inputs that were too long,
probabilities where logits are expected. The gate runs up to 64 rows, spread evenly over the dataset, through the
teacher, a second time in the same batch and a few of them in a smaller one, and refuses outputs that cannot be labels.
It costs about two batches. ``output_monitor`` checks later batches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidLogits, TeacherRejected
from softlabels.generation.length_groups import predict_outputs
from softlabels.generation.output_sample import OutputSample, sample_of
from softlabels.labels import DISTRIBUTIONS
from softlabels.models import Model
from softlabels.sources import Source, describe_gaps

ROWS = 64
"""Rows of the sample."""

SMALL_BATCH = 8
"""The sample is so many times larger than the batch that some of its rows are predicted in once more."""

MAX_REPEAT_DIFFERENCE = 1e-2
"""Relative difference of two passes over one batch. Dropout differs by far more, the order of additions by far less."""

MAX_BATCH_DIFFERENCE = 5e-2
"""Relative difference of a row in two batches. Batch statistics differ by far more, kernels for other sizes by less."""


def check_teacher(
    teacher: Model,
    source: Source,
    *,
    extra_classes: bool = False,
    batch_size: int = ROWS,
    usable: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> None:
    """Raise unless the teacher's outputs for a sample of the data look like labels.

    Args:
        teacher: The model that is about to label ``source``.
        source: The data.
        extra_classes: If True, the teacher may know classes that the hard labels do not show.
        batch_size: Most rows to predict at a time.
        usable: Function that returns those of some rows that can be labelled; None if every row must be.

    Raises:
        InvalidArgument: The class count is not that of the hard labels.
        InvalidLogits: An output has another shape or is not finite; names the row.
        TeacherRejected: An output is constant, independent of the input, a probability, or differs from pass to pass
            or from batch to batch.
    """
    _check_classes(teacher, source, extra_classes=extra_classes)
    count = min(ROWS, batch_size, len(source))
    rows = _sample_rows(source, count) if usable is None else _usable_rows(source, count, usable)
    first = predict_samples(teacher, source, rows)
    for sample in first.values():
        _check_finite(sample, rows)
        _check_informative(sample, inputs_differ=_differ(source, rows))
    repeated = predict_samples(teacher, source, rows)
    few = np.unique(np.linspace(0, len(rows) - 1, num=max(2, len(rows) // SMALL_BATCH)).astype(np.int64))
    alone = predict_samples(teacher, source, rows[few])
    for name, sample in first.items():
        _check_repeatable(sample, repeated[name])
        _check_batch(_only(sample, few), alone[name])


def _sample_rows(source: Source, count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, len(source) - 1, num=count).astype(np.int64))


def _usable_rows(
    source: Source, count: int, usable: Callable[[NDArray[np.int64]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return about as many rows that can be labelled, from the first candidates that hold so many."""
    candidates = _sample_rows(source, min(ROWS, len(source)))
    rows = candidates[:0]
    # Strides, so that the first candidates are spread over the data too.
    strides = max(1, len(candidates) // count)
    for offset in range(strides):
        rows = np.union1d(rows, usable(candidates[offset::strides]))[:count]
        if len(rows) == count:
            break
    if not len(rows):
        raise TeacherRejected(
            f"teacher: none of {len(candidates)} rows tried of {source.spec} can be labelled; expected most of them. "
            "Run without skip_bad= to see the error"
        )
    return rows


def predict_samples(teacher: Model, source: Source, rows: NDArray[np.int64]) -> dict[str, OutputSample]:
    """Return samples of the outputs for a batch, by head.

    Args:
        teacher: The model.
        source: The data.
        rows: Rows of the batch, (n,).

    Raises:
        InvalidLogits: An output has another shape than its head.
    """
    outputs = predict_outputs(teacher, source.inputs(rows))
    return {name: sample_of(name, teacher.heads[name], output) for name, output in outputs.items()}


def _only(sample: OutputSample, rows: NDArray[np.int64]) -> OutputSample:
    chosen = np.isin(sample.rows, rows)
    return OutputSample(sample.name, sample.head, sample.values[chosen], sample.rows[chosen])


def _differ(source: Source, rows: NDArray[np.int64]) -> bool:
    """Return True if the inputs of some rows differ, by their keys."""
    return len({source.keys(int(row), int(row) + 1).tobytes() for row in rows}) > 1


def _check_classes(teacher: Model, source: Source, *, extra_classes: bool) -> None:
    shown = source.classes
    heads = [head for head in teacher.heads.values() if head.kind == "classes"]
    if shown is None or len(heads) != 1 or shown == heads[0].classes or (extra_classes and shown < heads[0].classes):
        return
    hint = (
        "Choose the teacher for this data, or another label column with label="
        if shown > heads[0].classes
        else "If the teacher knows more classes than this data shows, add extra_classes=True"
    )
    gaps = describe_gaps(source)
    raise InvalidArgument(
        f"the teacher has {heads[0].classes} classes, the labels of {source.spec} show {shown}"
        f"{'' if gaps is None else ': ' + gaps}. {hint}"
    )


def _check_finite(sample: OutputSample, rows: NDArray[np.int64]) -> None:
    """Raise for NaN and infinities. -inf rules a class out, as long as a class remains."""
    values = sample.values
    bad = np.isnan(values).any(axis=1) | np.isposinf(values).any(axis=1) | ~np.isfinite(values).any(axis=1)
    if not sample.is_distribution:
        bad |= ~np.isfinite(values).all(axis=1)
    if bad.any():
        row = rows[sample.rows[bad.argmax()]]
        raise InvalidLogits(
            f"teacher: outputs of head {sample.name!r} for row {row} are not finite ({bad.sum()} of {len(values)} "
            "tried). Look for overflow in half precision, or damaged weights"
        )


def _check_informative(sample: OutputSample, *, inputs_differ: bool) -> None:
    """Raise if the outputs are probabilities, flat within each row, or the same for rows that differ."""
    name, kind = sample.name, sample.head.kind
    if kind in DISTRIBUTIONS and sample.head.classes == 1:
        raise TeacherRejected(
            f"teacher: head {name!r} has a single output, whose softmax is always 1. For two classes return the logits "
            "(0, z) in place of z; for a number declare the head as kind='regression'"
        )
    if sample.are_probabilities():
        raise TeacherRejected(
            f"teacher: head {name!r} returns probabilities, so that labels would be softened twice. Return logits, or "
            "the logarithm of the probabilities. Use gate=False to label anyway"
        )
    if sample.is_flat():
        raise TeacherRejected(
            f"teacher: head {name!r} gives every class the same logit, in all {len(sample.values)} outputs tried. Are "
            "the weights loaded? Use gate=False to label anyway"
        )
    if inputs_differ and len(sample.values) > 1 and sample.is_constant():
        raise TeacherRejected(
            f"teacher: head {name!r} has the same output for {len(np.unique(sample.rows))} different rows, so it does "
            "not depend on the input. Is the preprocessing right (scale, channels)? Use gate=False to label anyway"
        )


def _check_repeatable(first: OutputSample, second: OutputSample) -> None:
    difference = first.difference(second)
    if difference > MAX_REPEAT_DIFFERENCE:
        raise TeacherRejected(
            f"teacher: head {first.name!r} differs from pass to pass by {difference:.1%} of its spread, expected at "
            f"most {MAX_REPEAT_DIFFERENCE:.0%}. Is dropout active at inference? Call eval() on the network. Use "
            "gate=False to label anyway"
        )


def _check_batch(large: OutputSample, small: OutputSample) -> None:
    difference = large.difference(OutputSample(small.name, small.head, small.values, large.rows))
    if difference > MAX_BATCH_DIFFERENCE:
        raise TeacherRejected(
            f"teacher: head {large.name!r} depends on the batch: equal rows differ by {difference:.1%} of its spread "
            f"in batches of another size, expected at most {MAX_BATCH_DIFFERENCE:.0%}. Is batch normalisation in "
            "training mode? Call eval() on the network. Use gate=False to label anyway"
        )
