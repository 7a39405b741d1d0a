"""Joining labels to the user's data, by key: each label meets the example it was made from, or there is an error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import ranges
from softlabels.errors import InvalidArgument, KeyMissing
from softlabels.loading.key_index import KeyIndex, key_index
from softlabels.rng import VIEW_STREAM, philox_words
from softlabels.sources import Source
from softlabels.store import Store

NAMED = 3
"""Missing keys that a message names."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Which row of the store goes with which row of the data, item by item, in the order of the store's rows.

    Attributes:
        count: items.
        store_rows: (count,) ascending; None: item i is row i.
        source_rows: (count,) row of the data; None: the same as the store's.
    """

    count: int
    store_rows: Rows | None = None
    source_rows: Rows | None = None

    def of_store(self, items: Rows) -> Rows:
        """Rows of the store."""
        return items if self.store_rows is None else self.store_rows[items]

    def of_source(self, items: Rows) -> Rows:
        """Rows of the data."""
        return self.of_store(items) if self.source_rows is None else self.source_rows[items]

    def per_chunk(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Items in each chunk, whose first rows (and at the end the number of rows) are ``starts``."""
        if self.store_rows is None:
            return np.diff(starts)
        return np.diff(np.searchsorted(self.store_rows, starts))


@dataclass(frozen=True)
class Join:
    """How a store and data go together.

    Attributes:
        examples: rows of the data that are used; None: no data, all rows of the store.
        rows: store rows of all views of all examples, those of an example one after the other.
        views: (examples,) views of each.
        missing: rows of the data that were asked for and have no label.
        unused: rows of the store that nothing was asked of.
        draw: one view of each example an epoch; otherwise each view is an item of its own.
    """

    examples: Rows | None
    rows: Rows
    views: NDArray[np.int64]
    missing: Rows
    unused: int
    draw: bool

    def __len__(self) -> int:
        """Items in an epoch."""
        return len(self.views) if self.draw else len(self.rows)

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.cumsum(self.views) - self.views

    def pairs(self, seed: int, epoch: int) -> Pairs:
        """The items of an epoch; a view is drawn by (seed, epoch, example) alone."""
        if self.draw:
            choices = np.maximum(self.views, 1).astype(np.uint64)
            drawn = philox_words(len(self.views), seed, epoch, VIEW_STREAM) % choices
            rows, examples = self.rows[self._firsts + drawn.astype(np.int64)], self.examples
        else:
            rows = self.rows
            examples = None if self.examples is None else np.repeat(self.examples, self.views)
        order = np.argsort(rows, kind="stable")
        return Pairs(len(rows), rows[order], None if examples is None else examples[order])

    def report(self) -> str:
        """What goes together, in a line."""
        return (
            f"{len(self.views):,} examples with {len(self.rows):,} labels; {len(self.missing):,} rows of the data have "
            f"no label, {self.unused:,} rows of the store are not used"
        )


def positional(store: Store, source: Source) -> bool:
    """Whether row i of the data is row i of the store, as equal fingerprints say."""
    return source.fingerprint == store.descriptor.data.fingerprint and len(source) == store.rows


def join(store: Store, source: Source, rows: Rows, *, missing: str = "error", views: str = "all") -> Join:
    """Find the labels of ``rows`` of ``source``, by key.

    Equal inputs have equal labels, so that of several rows of the store with one key and view the first will do.

    Args:
        store: where the labels are.
        source: the data, in any order, with any other columns and rows.
        rows: of the data.
        missing: ``error``, or ``drop`` the rows without a label.
        views: ``all``, or ``draw`` one of each example an epoch.

    Raises:
        KeyMissing: some rows have no label; says how many and names the first.
    """
    index = key_index(store)
    first, count = index.find(source.keys()[rows])
    without = np.flatnonzero(count == 0)
    if len(without) and missing == "error":
        raise KeyMissing(_describe_missing(store, source, rows, without))
    kept = count > 0
    first, count = first[kept], count[kept]
    found = index.rows[ranges(first, count)]
    unused = store.rows - len(np.unique(found))
    return Join(rows[kept], found, count, rows[without], unused, draw=views == "draw")


def by_view(store: Store) -> Join:
    """All examples of a store without data, to draw a view of each."""
    index: KeyIndex = key_index(store)
    starts = np.flatnonzero(np.concatenate([[True], index.keys[1:] != index.keys[:-1]]))
    views = np.diff(np.append(starts, len(index.keys)))
    nothing = np.empty(0, np.int64)
    return Join(None, index.rows, views, nothing, store.rows - len(index.rows), draw=True)


def aligned_rows(store: Store, other: Store) -> Rows | None:
    """For each row of ``store`` the row of ``other`` with its key and view; None where those are the same rows.

    Raises:
        InvalidArgument: ``other`` lacks some of them.
    """
    theirs = other.descriptor.data.fingerprint
    if theirs is not None and theirs == store.descriptor.data.fingerprint and store.rows == other.rows:
        return None
    if store.rows == other.rows and np.array_equal(store.keys(), other.keys()):
        return None
    mine, found = key_index(store), key_index(other)
    first, count = found.find(mine.keys.view(np.uint8).reshape(-1, 16))
    if (count == 0).any():
        raise InvalidArgument(
            f"{other.storage} has no labels for {int((count == 0).sum()):,} rows of {store.storage}: teachers of an "
            "ensemble must have labelled the same rows. Generate what is missing"
        )
    if len(mine.rows) != store.rows or (count > 1).any():
        raise InvalidArgument(
            f"{store.storage} and {other.storage} hold rows in unlike orders with several views or labels of one key, "
            "which cannot be matched; make both from the same data"
        )
    rows = np.empty(store.rows, np.int64)
    rows[mine.rows] = found.rows[first]
    return rows


def _describe_missing(store: Store, source: Source, rows: Rows, without: NDArray[np.int64]) -> str:
    keys = source.keys()
    named = ", ".join(f"row {rows[i]} ({keys[rows[i]].tobytes().hex()})" for i in without[:NAMED])
    return (
        f"{len(without):,} of {len(rows):,} rows of {source.spec} have no label in {store.storage}: {named}"
        f"{', ...' if len(without) > NAMED else ''}. Were the labels made from this data, with the same input "
        'columns and --id? Generate labels for it, name the data they were made from, or pass missing="drop"'
    )
