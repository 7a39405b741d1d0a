"""Which rows are trained on, which measure the result, and whose hard labels are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import ColumnMissing, InvalidArgument
from softlabels.losses import NO_LABEL
from softlabels.sources import Source
from softlabels.training.recipe import Recipe

HELD_OUT = 10
"""Without a split column, one row in so many is held out."""


def split_rows(source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to measure on.

    By the split column where it has a ``train``: the others are ``test`` if there is one, else all that is not
    ``train``. Without it, a tenth of the rows is held out, the same tenth for any seed.

    Raises:
        InvalidArgument: There is a split column, but no split is known as ``train``; lists the splits.
    """
    splits = source.splits()
    if "train" in splits:
        train = source.split("train")
        rest = source.split("test") if "test" in splits else np.setdiff1d(source.split(None), train)
        return train, rest
    if splits:
        raise InvalidArgument(
            f"{source.spec}: no split is called train, got {', '.join(splits)}. Rename the splits to train and test"
        )
    everything = source.split(None)
    if len(everything) < HELD_OUT:
        return everything, everything[:0]
    words = np.random.Philox(np.random.SeedSequence(len(everything))).random_raw(len(everything))
    held_out = np.sort(np.argsort(words, kind="stable")[: len(everything) // HELD_OUT])
    return np.setdiff1d(everything, held_out), held_out


def choose_hard_labels(source: Source, train: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64] | None:
    """Hard labels by row of the source, -1 where a row has none or is not to know it; None without a label column.

    ``recipe.hard_labels`` = N keeps N of the training rows' labels: a seeded choice that takes classes in turn, so that
    each has its share.

    Raises:
        InvalidArgument: fewer rows have a label.
    """
    labels = source.labels(train)
    if labels is None:
        if recipe.hard_labels is not None:
            require_labels(source)
        return None
    known = np.full(len(source), NO_LABEL, np.int64)
    if recipe.hard_labels is None:
        known[train] = labels
        return known
    labelled = np.flatnonzero(labels >= 0)
    if recipe.hard_labels > len(labelled):
        raise InvalidArgument(
            f"hard_labels = {recipe.hard_labels}, but only {len(labelled)} training rows have a label"
        )
    words = np.random.Philox(np.random.SeedSequence(recipe.seed % 2**64)).random_raw(len(labelled))
    shuffled = labelled[np.argsort(words, kind="stable")]
    turn = np.zeros(len(shuffled), np.int64)
    for value in np.unique(labels[shuffled]):
        members = labels[shuffled] == value
        turn[members] = np.arange(members.sum())
    chosen = shuffled[np.argsort(turn, kind="stable")][: recipe.hard_labels]
    known[train[chosen]] = labels[chosen]
    return known


def require_labels(source: Source) -> None:
    """Raise ColumnMissing where the data has no hard labels."""
    if source.columns.label is None:
        raise ColumnMissing(f"{source.spec} has no column of hard labels; name it with --label")
