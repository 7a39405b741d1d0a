"""Copying of rows, by key and view, from sealed stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings.tail import exposure, sums_of
from softlabels.errors import StoreConflict
from softlabels.keys import row_names
from softlabels.labels import Head, SparseLabels
from softlabels.store.format.difference import difference
from softlabels.store.format.provenance import TeacherRecord
from softlabels.store.format.token_inputs import TokenInputs
from softlabels.store.format.view_record import ViewRecord, same_views
from softlabels.store.sealed_store import Store
from softlabels.store.unit_statistics import UnitStatistics


class RowCopier:
    """Sealed stores to copy rows from.

    Args:
        stores: Stores to copy from, one at least; a row that several hold is copied from the first of them.
        heads: Heads that the rows must have.
        teacher: Teacher that the rows must come from.
        inputs: Token ids that the rows are to hold; None for labels alone.
        views: Augmentation whose views the rows must be labels of; None for labels of inputs as they are.

    Raises:
        StoreConflict: A store is of another teacher, or has other heads, inputs or views.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        heads: dict[str, Head],
        teacher: TeacherRecord,
        inputs: TokenInputs | None = None,
        views: ViewRecord | None = None,
    ) -> None:
        self.stores = list(stores)
        for store in self.stores:
            _check_alike(store, heads, teacher)
            if store.descriptor.inputs != inputs:
                raise StoreConflict(
                    f"{store.storage}: other inputs, got {store.descriptor.inputs}; expected {inputs}. Use stores of "
                    "one tokenizer"
                )
            if not same_views(store.descriptor.views, views):
                raise StoreConflict(
                    f"{store.storage}: labels of other views, got {_policy(store.descriptor.views)}; expected "
                    f"{_policy(views)}. Use stores of one augmentation, seed and size"
                )
        names = [_names(store) for store in self.stores]
        joined = np.concatenate(names)
        self._which = np.repeat(np.arange(len(names)), [len(item) for item in names])
        self._row = np.concatenate([np.arange(len(item)) for item in names])
        self._order = np.argsort(joined, kind="stable")
        self._sorted = joined[self._order]

    def find(self, keys: NDArray[np.uint8], views: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return the number of each row among those of all stores, by key and view; -1 if no store has it."""
        names = row_names(keys, views)
        positions = np.minimum(np.searchsorted(self._sorted, names), len(self._sorted) - 1)
        return np.where(self._sorted[positions] == names, self._order[positions], -1)

    def store_indices(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index in ``stores`` of the store of each row, (n,).

        Args:
            numbers: Rows as ``find`` returns them, (n,), none of them -1.
        """
        return self._which[numbers]

    def distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of a merged store, in order, and (n, 2) pairs of a row and a later one of its name."""
        first = np.concatenate([[True], self._sorted[1:] != self._sorted[:-1]])
        leaders = self._order[np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))]
        return np.sort(self._order[first]), np.stack([leaders, self._order], axis=1)[~first]

    def columns(self, numbers: NDArray[np.int64], names: list[str]) -> dict[str, NDArray[Any]]:
        """Return columns of rows numbered as ``find`` does, in their order."""
        schema = self.stores[0].descriptor.columns()
        which = self._which[numbers]
        parts = [
            store.take(self._row[numbers[which == number]], names)
            for number, store in enumerate(self.stores)
            if (which == number).any()
        ]
        by_store = np.argsort(which, kind="stable")
        return ragged.take(ragged.join(parts), schema, np.argsort(by_store))

    def add_statistics(
        self,
        statistics: UnitStatistics,
        numbers: NDArray[np.int64],
        columns: Mapping[str, NDArray[Any]],
        rows: NDArray[np.int64],
    ) -> None:
        """Add the statistics of rows that were copied to a unit.

        Args:
            statistics: Statistics of the unit.
            numbers: Rows as ``find`` returns them, (n,).
            columns: Columns of these rows.
            rows: Positions of the rows in the unit, (n,).
        """
        schema = self.stores[0].descriptor.columns()
        for which, store in enumerate(self.stores):
            copied = np.flatnonzero(self._which[numbers] == which)
            if not len(copied):
                continue
            for head in store.heads:
                if statistics.wants_sums(head) and (prior := store.prior(head)) is not None:
                    labels = store.decode(ragged.take(columns, schema, copied), head)
                    statistics.add_sums(
                        head, spread_tail(cast("SparseLabels", labels), prior)
                    )  # only those have a tail
                add_dense_rows(store, head, statistics, self._row[numbers[copied]], rows[copied])


def add_dense_rows(
    store: Store, head: str, statistics: UnitStatistics, rows: NDArray[np.int64], unit_rows: NDArray[np.int64]
) -> None:
    """Add the rows that a store keeps dense to the statistics of a unit that they are copied to.

    Args:
        store: Store that rows are copied from.
        head: Name of the head.
        statistics: Statistics of the unit.
        rows: Number of each row in the store, (n,).
        unit_rows: Number of each row in the unit, (n,).
    """
    probe = store.probe(head)
    if probe is None:
        return
    is_dense = np.isin(rows, probe.rows)
    if is_dense.any():
        index = np.searchsorted(probe.rows, rows[is_dense])
        positions = None if probe.positions is None else probe.positions[index]
        statistics.add_dense(head, unit_rows[is_dense], probe.logits[index], positions)


def spread_tail(labels: SparseLabels, prior: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (2, T, C) sums of rows without statistics: their unlisted mass is spread as their store's prior.

    Args:
        labels: Labels of the rows.
        prior: Tail prior of their store, (T, C).
    """
    row, place = np.nonzero(np.isfinite(labels.values))
    seen = exposure(labels.log_tail, row, labels.ids[row, place], labels.classes)
    return sums_of(prior, seen, np.exp(labels.log_tail.astype(np.float64)).sum(axis=0))


def _check_alike(store: Store, heads: dict[str, Head], teacher: TeacherRecord) -> None:
    other = store.descriptor.teacher
    if other.identity != teacher.identity:
        raise StoreConflict(
            f"{store.storage}: labels of another teacher, got {other.title}; expected {teacher.title}. Labels of "
            "different teachers do not mix: name stores of one teacher"
        )
    for name, head in heads.items():
        if (existing := store.heads.get(name)) != head:
            before = {} if existing is None else existing.to_json()
            raise StoreConflict(
                f"{store.storage}: stored with other settings, head {name!r}: {difference(before, head.to_json())}. "
                "Rows are copied unchanged; generate with the settings of that store"
            )
    if set(store.heads) != set(heads):
        raise StoreConflict(
            f"{store.storage}: other heads, got {', '.join(sorted(store.heads))}; expected {', '.join(sorted(heads))}. "
            "Use stores of the same heads"
        )


def _names(store: Store) -> NDArray[np.bytes_]:
    parts = store.read_chunks(range(store.chunks), ["key", "view"])
    return np.concatenate([row_names(item["key"], item["view"]) for item in parts])


def _policy(views: ViewRecord | None) -> str:
    """Return views in words."""
    if views is None:
        return "no augmentation"
    return f"{views.count} views of {views.policy}, seed {views.seed}, size {views.size}"
