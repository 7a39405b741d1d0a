"""Joining labels to the user's data by key: each label meets the example it was made from, or there is an error."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from softlabels.columns import ranges
from softlabels.errors import InvalidArgument, KeyMissing
from softlabels.loading.key_index import key_index
from softlabels.loading.order.epoch import Join, Rows
from softlabels.sources import Source
from softlabels.store import Store

MAX_NAMED = 3
"""Missing keys that a message names."""

Missing = Literal["error", "drop"]
Views = Literal["all", "one", "mean"]


def match(
    store: Store | None, source: Source | None, rows: Rows | None, *, missing: Missing, views: Views
) -> Join | None:
    """Return the join of a store and data; None if example i is row i of both.

    Args:
        store: Store of the labels, if any.
        source: Data, if any.
        rows: Selected rows, ascending; None for all.
        missing: Treatment of data rows without a label; see ``join``.
        views: Treatment of several views of an example; see ``join``.

    Raises:
        InvalidArgument: An unknown option, or drawn views of selected rows.
        KeyMissing: Data rows without a label.
    """
    if missing not in get_args(Missing):
        raise InvalidArgument(f"missing: unknown value, got {missing!r}; expected {', '.join(get_args(Missing))}")
    if views not in get_args(Views):
        raise InvalidArgument(f"views: unknown value, got {views!r}; expected {', '.join(get_args(Views))}")
    if store is not None and source is not None and not positional(store, source):
        selected = np.arange(len(source)) if rows is None else rows
        return join(store, source, selected, missing=missing, views=views)
    if views == "all" or store is None:
        return None
    if rows is not None:
        raise InvalidArgument(
            "rows: views are drawn from all rows of a store, or from rows joined to data by key. Leave rows= out"
        )
    return by_view(store, first=views == "mean")


def positional(store: Store, source: Source) -> bool:
    """Return True if row i of the data is row i of the store, as equal fingerprints prove."""
    return source.fingerprint == store.descriptor.data.fingerprint and len(source) == store.rows


def join(store: Store, source: Source, rows: Rows, *, missing: Missing = "error", views: Views = "all") -> Join:
    """Find the labels of data rows by key.

    Equal inputs have equal labels, so that of several rows of the store with one key and view the first is used.

    Args:
        store: Store of the labels.
        source: Data, in any order, with any other columns and rows.
        rows: Data rows to find labels for, (n,).
        missing: ``error``, or ``drop`` the rows without a label.
        views: ``all`` views of an example, ``one`` in each epoch, or the ``mean`` of their labels.

    Raises:
        KeyMissing: Rows without a label, other than those that were skipped when the labels were made; counts them and
            names the first.
    """
    index = key_index(store)
    first, count = index.find(source.keys()[rows])
    unlabelled = np.flatnonzero(count == 0)
    if len(unlabelled) and missing == "error" and not _were_skipped(store, source, rows[unlabelled]):
        raise KeyMissing(_describe_missing(store, source, rows, unlabelled))
    labelled = count > 0
    first, count = first[labelled], count[labelled]
    store_rows = index.rows[ranges(first, count)]
    unused = store.rows - len(np.unique(store_rows))
    return Join(rows[labelled], store_rows, count, rows[unlabelled], unused, draw=views != "all", first=views == "mean")


def _were_skipped(store: Store, source: Source, rows: Rows) -> bool:
    """Return True if the store was made without all of these data rows, and says so."""
    skipped = {entry.key for entry in store.skipped()}
    keys = source.keys()
    return bool(skipped) and all(keys[row].tobytes().hex() in skipped for row in rows)


def by_view(store: Store, *, first: bool = False) -> Join:
    """Return all examples of a store without data, to draw a view of each.

    Args:
        store: Store of the labels.
        first: Use the first view of each in every epoch.
    """
    index = key_index(store)
    starts = np.flatnonzero(np.concatenate([[True], index.keys[1:] != index.keys[:-1]]))
    views = np.diff(np.append(starts, len(index.keys)))
    nothing = np.empty(0, np.int64)
    return Join(None, index.rows, views, nothing, store.rows - len(index.rows), draw=True, first=first)


def aligned_rows(store: Store, other: Store) -> Rows | None:
    """Return for each row of ``store`` the row of ``other`` with its key and view; None if those are the same rows.

    Raises:
        InvalidArgument: ``other`` lacks rows of ``store``, or its rows cannot be matched.
    """
    fingerprint = other.descriptor.data.fingerprint
    if fingerprint is not None and fingerprint == store.descriptor.data.fingerprint and store.rows == other.rows:
        return None
    if store.rows == other.rows and np.array_equal(store.keys(), other.keys()):
        return None
    index, other_index = key_index(store), key_index(other)
    first, count = other_index.find(index.keys.view(np.uint8).reshape(-1, 16))
    if (count == 0).any():
        raise InvalidArgument(
            f"stores: {other.storage} has no labels for {int((count == 0).sum()):,} rows of {store.storage}; expected "
            "labels of the same rows from every teacher of an ensemble. Generate the missing labels"
        )
    if len(index.rows) != store.rows or (count > 1).any():
        raise InvalidArgument(
            f"stores: {store.storage} and {other.storage} hold several views or labels of one key in different "
            "orders, which cannot be matched. Generate both from the same data"
        )
    rows = np.empty(store.rows, np.int64)
    rows[index.rows] = other_index.rows[first]
    return rows


def _describe_missing(store: Store, source: Source, rows: Rows, unlabelled: Rows) -> str:
    keys = source.keys()
    named = ", ".join(f"row {rows[i]} ({keys[rows[i]].tobytes().hex()})" for i in unlabelled[:MAX_NAMED])
    more = ", ..." if len(unlabelled) > MAX_NAMED else ""
    return (
        f"{len(unlabelled):,} of {len(rows):,} rows of {source.spec} have no label in {store.storage}: {named}{more}. "
        f"{_describe_keys(store, source)} Use the data that the labels were made from, or generate labels for this data"
    )


def _describe_keys(store: Store, source: Source) -> str:
    """Describe what the keys are hashes of, because equal numbers of another dtype or shape have other keys."""
    columns = source.columns
    recorded = store.descriptor.data
    made_from = ""
    if recorded.dtype is not None:
        made_from = f"; the labels were made from {recorded.dtype} inputs of shape {recorded.shape}"
    if columns.id is not None:
        return f"Keys here are hashes of the ids in column {columns.id!r}{made_from}."
    if columns.computed:
        return (
            f"Keys here are hashes of what inputs are computed from, such as the bytes of an image file{made_from}. "
            "The same picture in another file format has another key."
        )
    names = ", ".join(repr(name) for name in columns.inputs)
    if recorded.dtype == str(source.input_dtype) and recorded.shape == tuple(source.input_shape):
        return (
            f"Keys here are hashes of {source.input_dtype} inputs of shape {tuple(source.input_shape)} from column "
            f"{names}, as those of the labels are, so these are other examples, or rows that were named with id=."
        )
    return (
        f"Keys here are hashes of {source.input_dtype} inputs of shape {tuple(source.input_shape)} from column "
        f"{names}{made_from}. Equal numbers of another dtype or shape, such as a float64 copy of float32 data, have "
        "other keys, and so have rows that were named with id=."
    )
