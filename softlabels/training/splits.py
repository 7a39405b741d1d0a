"""Rows that are trained on, rows that measure the result, and rows whose hard labels are used.

Without a split column, the rows with the least hashed keys are held out. Which side a row is on then depends on its
content alone, so equal rows are on one side, and a run can tell in any other file which rows it held out.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import ColumnMissing, InvalidArgument
from softlabels.keys import KEY_BYTES
from softlabels.losses import NO_LABEL
from softlabels.models.run_record import HeldOut
from softlabels.rng import mix
from softlabels.sources import Source
from softlabels.store import Store
from softlabels.training.recipe import Recipe

TRAIN, TEST = "train", "test"

HELD_OUT_SHARE = 10
"""Without a split column, one row in this many is held out."""

SKETCH_KEYS = 256
"""Hashed keys in the sketch of the rows that were trained on. If other data holds one in twenty of those rows, the
sketch shows none of them with a probability of 2e-6."""


def split_rows(source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and the rows to measure on.

    With a split column, these are the split ``train``, and ``test`` or else all other splits. Without one, a tenth of
    the rows is held out, the same tenth for any seed and any order of the rows.

    Args:
        source: The data.

    Returns:
        Two ascending arrays of row numbers.

    Raises:
        InvalidArgument: The split column has no ``train``; lists the splits.

    Example:
        >>> from softlabels.sources import open_source
        >>> [len(rows) for rows in split_rows(open_source("digits"))]
        [1347, 450]
    """
    held_out = held_out_rule(source)
    if held_out.rule == "split":
        return source.split(TRAIN), held_out_rows(held_out, source)
    rows = held_out_rows(held_out, source)
    return np.setdiff1d(source.split(None), rows), rows


def held_out_rule(source: Source) -> HeldOut:
    """Return how the rows of a dataset are split.

    Args:
        source: The data.

    Raises:
        InvalidArgument: The split column has no ``train``; lists the splits.
    """
    splits = source.splits()
    if splits:
        if TRAIN not in splits:
            raise InvalidArgument(
                f"{source.spec}: no split is called {TRAIN}, got {', '.join(splits)}; expected {TRAIN} and {TEST}. "
                "Rename the splits, or drop the column"
            )
        return HeldOut(rule="split", splits=(TEST,) if TEST in splits else tuple(n for n in splits if n != TRAIN))
    hashed, counts = np.unique(hashed_keys(source), return_counts=True)
    fitting = np.cumsum(counts) <= len(source) // HELD_OUT_SHARE
    return HeldOut(rule="keys", threshold=int(hashed[fitting][-1])) if fitting.any() else HeldOut(rule="none")


def held_out_rows(held_out: HeldOut, source: Source) -> NDArray[np.int64]:
    """Return the rows of any data that a rule holds out.

    Args:
        held_out: The rule; its splits may be absent from the data.
        source: The data.

    Returns:
        Ascending row numbers.
    """
    if held_out.rule == "keys":
        return np.flatnonzero(hashed_keys(source) <= np.uint64(held_out.threshold)).astype(np.int64)
    names = [name for name in held_out.splits if name in source.splits()]
    if held_out.rule == "none" or not names:
        return np.empty(0, np.int64)
    return np.sort(np.concatenate([source.split(name) for name in names]))


def hashed_keys(source: Source) -> NDArray[np.uint64]:
    """Return a word per row that depends on its key alone, (n,) uint64, uniform whatever the keys are.

    Args:
        source: The data.
    """
    return _hashed(source.keys())


def without_skipped(rows: NDArray[np.int64], source: Source, store: Store) -> NDArray[np.int64]:
    """Return those rows whose labels were not skipped when a store was made: they may be unreadable.

    Args:
        rows: Rows of the data, (n,).
        source: The data.
        store: The labels.
    """
    skipped = store.skipped()
    if not skipped:
        return rows
    # An example with several views is left out if none of them has labels.
    views = 1 if store.descriptor.views is None else store.descriptor.views.count
    names, counts = np.unique([entry.key for entry in skipped], return_counts=True)
    keys = np.frombuffer(bytes.fromhex("".join(names[counts >= views])), np.uint8).reshape(-1, KEY_BYTES)
    return rows[~np.isin(hashed_keys(source)[rows], _hashed(keys))]


def _hashed(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    halves = np.ascontiguousarray(keys).view("<u8")
    return mix(halves[:, 0].astype(np.uint64) ^ mix(halves[:, 1].astype(np.uint64)))


def sketch_of(hashed: NDArray[np.uint64]) -> str:
    """Return the sketch of a set of rows: their least hashed keys, 16 hexadecimal digits each.

    Args:
        hashed: Hashed keys of the rows, (n,).
    """
    return "".join(f"{int(key):016x}" for key in np.unique(hashed)[:SKETCH_KEYS])


def trained_share(held_out: HeldOut, hashed: NDArray[np.uint64]) -> float:
    """Return the estimated share of a run's training rows that are among some rows, 0 to 1.

    Args:
        held_out: Record of the run.
        hashed: Hashed keys of the rows, (n,).
    """
    keys = [int(held_out.sketch[start : start + 16], 16) for start in range(0, len(held_out.sketch), 16)]
    return float(np.isin(np.array(keys, np.uint64), hashed).mean()) if keys else 0.0


def digest_of_split(train: NDArray[np.int64], held_out: NDArray[np.int64]) -> str:
    """Return a digest of a split: BLAKE3, hexadecimal.

    Args:
        train: Rows to train on.
        held_out: Rows to measure on.
    """
    hasher = blake3(b"softlabels split 1\0")
    for rows in (train, held_out):
        hasher.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
    return str(hasher.hexdigest())


def choose_hard_labels(source: Source, train: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64] | None:
    """Return the hard labels to train with.

    ``recipe.hard_labels`` = N uses N of the training rows' labels: a seeded choice that takes classes in turn, so that
    each has its share.

    Args:
        source: The data.
        train: Rows to train on.
        recipe: Options of the run.

    Returns:
        Hard labels by row of the source, -1 for rows without one or whose label is not used; None without labels.

    Raises:
        ColumnMissing: Labels are needed, and there is no column of them.
        InvalidArgument: Fewer rows have a label than the recipe uses.
    """
    labels = source.labels(train)
    if labels is None:
        if recipe.hard_labels is not None and not source.targets:
            require_labels(source)
        return None
    used = np.full(len(source), NO_LABEL, np.int64)
    if recipe.hard_labels is None:
        used[train] = labels
        return used
    labelled = np.flatnonzero(labels >= 0)
    if recipe.hard_labels > len(labelled):
        raise InvalidArgument(
            f"hard_labels: too many, got {recipe.hard_labels}; expected at most the {len(labelled)} training rows that "
            "have a label"
        )
    words = np.random.Philox(np.random.SeedSequence(recipe.seed % 2**64)).random_raw(len(labelled))
    shuffled = labelled[np.argsort(words, kind="stable")]
    turn = np.zeros(len(shuffled), np.int64)
    for value in np.unique(labels[shuffled]):
        members = labels[shuffled] == value
        turn[members] = np.arange(members.sum())
    chosen = shuffled[np.argsort(turn, kind="stable")][: recipe.hard_labels]
    used[train[chosen]] = labels[chosen]
    return used


def choose_rows(
    source: Source, train: NDArray[np.int64], hard: NDArray[np.int64] | None, recipe: Recipe
) -> NDArray[np.bool_]:
    """Return the rows whose hard labels and targets are used, (rows,) bool; rows that measure the result are.

    Args:
        source: The data.
        train: Rows to train on.
        hard: Hard labels that were chosen; None without labels.
        recipe: Options of the run.
    """
    used = np.ones(len(source), np.bool_)
    if hard is not None:
        used[train] = hard[train] >= 0
        return used
    words = np.random.Philox(np.random.SeedSequence(recipe.seed % 2**64)).random_raw(len(train))
    used[train[np.argsort(words, kind="stable")][recipe.hard_labels :]] = False
    return used


def require_labels(source: Source) -> None:
    """Raise ColumnMissing if the data has no hard labels.

    Args:
        source: The data.

    Raises:
        ColumnMissing: There is no label column.
    """
    if not source.targets:
        raise ColumnMissing(
            f"{source.spec}: no column of hard labels, got none; expected one. Name it with label=, "
            "or the ground truth of heads with targets={'NAME': COLUMN}"
        )
