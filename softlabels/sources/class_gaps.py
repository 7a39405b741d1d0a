"""Class numbers that no label has: a sign of identifiers, ratings or numbers from 1 in place of classes from 0.

A model gets an output for every number up to the highest label. With labels 3, 5, 10 and 20 it has 21 outputs, and 17
of them never occur. This is right for a subset of known classes, so it is a warning and not an error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.protocol import Source

BLOCK = 2**20
"""Rows whose labels are read at a time."""
MIN_SPARSE_CLASSES = 1_000
"""Fewer class numbers than this may outnumber the labelled rows."""
MAX_RANGES = 4
"""Ranges of numbers that a message shows."""


def missing_classes(source: Source) -> NDArray[np.int64]:
    """Return the class numbers below the highest label that no row has, (n,); empty for named classes.

    Args:
        source: The data.

    Example:
        >>> from softlabels.sources import as_source
        >>> missing_classes(as_source({"x": np.zeros((3, 2), np.float32), "label": np.array([1, 4, 4])}))
        array([0, 2, 3])
    """
    if source.classes is None or source.class_names is not None:
        return np.empty(0, np.int64)
    occurs = np.zeros(source.classes, np.bool_)
    for start in range(0, len(source), BLOCK):
        labels = source.labels(np.arange(start, min(start + BLOCK, len(source)), dtype=np.int64))
        if labels is not None:
            occurs[labels[labels >= 0]] = True
    return np.flatnonzero(~occurs)


def describe_gaps(source: Source) -> str | None:
    """Return a sentence on class numbers that do not occur, with what to do; None if all of them occur.

    Args:
        source: The data.
    """
    missing = missing_classes(source)
    if not len(missing):
        return None
    return (
        f"{len(missing):,} of {source.classes:,} class numbers do not occur ({', '.join(_ranges(missing))}), and a "
        "model has an output for each. If these are not classes counted from 0, use their names as labels"
    )


def check_classes(source: Source, *, labelled: int) -> None:
    """Raise if the labels are identifiers: more class numbers than labelled rows, most of which do not occur.

    Args:
        source: The data.
        labelled: Number of rows with a label that a model is to learn from.

    Raises:
        InvalidData: The labels cannot be classes.
    """
    classes = source.classes or 0
    if classes > max(MIN_SPARSE_CLASSES, labelled) and 2 * len(missing_classes(source)) > classes:
        raise InvalidData(
            f"{source.spec}: labels are no classes, got numbers up to {classes - 1:,} in {labelled:,} rows; expected "
            f"classes counted from 0. {describe_gaps(source)}"
        )


def _ranges(numbers: NDArray[np.int64]) -> Iterator[str]:
    """Yield runs of consecutive numbers as text."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    for run in runs[:MAX_RANGES]:
        yield str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}"
    if len(runs) > MAX_RANGES:
        yield "..."
