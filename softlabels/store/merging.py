"""Rows of stores that exist, by key: what merging stores and topping one up have in common.

A row that another store holds is copied as it is if that store was made by the same teacher for the same heads. What
sealing needs comes along: the donor's tail prior, weighted by the mass these rows did not list, and the dense rows of
its probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.encodings import rows as ragged
from softlabels.encodings.tail import exposure, sums_of
from softlabels.errors import InvalidArgument, StoreConflict
from softlabels.labels import Head, SparseLabels, distance
from softlabels.store.evidence import UnitEvidence
from softlabels.store.reading import Store, open_store
from softlabels.store.snapshots import Snapshot, seal
from softlabels.store.writing import create_or_open

PIECE = 4096
"""Rows copied at a time."""
ALIKE = 0.01
"""Total variation up to which two labels of one row are taken to be the same answer."""
NAMED = 3
"""Conflicting rows that a message names."""


class Donors:
    """Sealed stores to copy rows from.

    Args:
        stores: what to copy from, one at least; of several that hold a row, the first.
        heads: what the rows are to hold.
        teacher: digest of the teacher they must come from; of one without, what it is called.

    Raises:
        StoreConflict: a store of another teacher or of other heads.
    """

    def __init__(self, stores: Sequence[Store], heads: dict[str, Head], teacher: str) -> None:
        self.stores = list(stores)
        for store in self.stores:
            _check_alike(store, heads, teacher)
        names = [_names(store) for store in self.stores]
        joined = np.concatenate(names)
        self._which = np.repeat(np.arange(len(names)), [len(part) for part in names])
        self._row = np.concatenate([np.arange(len(part)) for part in names])
        self._order = np.argsort(joined, kind="stable")
        self._sorted = joined[self._order]

    def find(self, keys: NDArray[np.uint8], views: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Number of a row among all the donors', by key and view; -1 for one that nobody holds."""
        wanted = _joined(keys, views)
        at = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[at] == wanted, self._order[at], -1)

    def distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows to keep when all are merged, in order, and (n, 2) pairs of a row and a later one of its name."""
        first = np.concatenate([[True], self._sorted[1:] != self._sorted[:-1]])
        leaders = self._order[np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))]
        return np.sort(self._order[first]), np.stack([leaders, self._order], axis=1)[~first]

    def columns(self, numbers: NDArray[np.int64], names: list[str]) -> dict[str, NDArray[Any]]:
        """Columns of rows numbered as ``find`` does, in their order."""
        schema = self.stores[0].descriptor.columns()
        which = self._which[numbers]
        parts = [
            store.take(self._row[numbers[which == number]], names)
            for number, store in enumerate(self.stores)
            if (which == number).any()
        ]
        by_store = np.argsort(which, kind="stable")
        return ragged.take(ragged.join(parts), schema, np.argsort(by_store))

    def add_evidence(
        self,
        evidence: UnitEvidence,
        numbers: NDArray[np.int64],
        columns: Mapping[str, NDArray[Any]],
        rows: NDArray[np.int64],
    ) -> None:
        """Add to a unit's evidence what is known of rows that were copied to it.

        Args:
            evidence: of the unit.
            numbers: of the rows, as ``find`` gives them.
            columns: of them all.
            rows: where in the unit they are.
        """
        schema = self.stores[0].descriptor.columns()
        for which, store in enumerate(self.stores):
            mine = np.flatnonzero(self._which[numbers] == which)
            if not len(mine):
                continue
            for head in store.heads:
                if evidence.wants_sums(head) and (prior := store.prior(head)) is not None:
                    labels = store.decode(ragged.take(columns, schema, mine), head)
                    if isinstance(labels, SparseLabels):
                        evidence.add_sums(head, _spread(labels, prior))
                if (probe := store.probe(head)) is not None:
                    own = self._row[numbers[mine]]
                    kept = np.isin(own, probe.rows)
                    if kept.any():
                        at = np.searchsorted(probe.rows, own[kept])
                        where = None if probe.positions is None else probe.positions[at]
                        evidence.add_dense(head, rows[mine[kept]], probe.logits[at], where)


def _spread(labels: SparseLabels, prior: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2, T, C) sums over rows that did not leave any: what they do not list is spread as their store's prior."""
    row, place = np.nonzero(np.isfinite(labels.values))
    seen = exposure(labels.log_tail, row, labels.ids[row, place], labels.classes)
    return sums_of(prior, seen, np.exp(labels.log_tail.astype(np.float64)).sum(axis=0))


def merge(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    conflicts: str = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """One store of the rows of several: the union by key and view, in their order. Goes on where it stopped.

    Args:
        paths: sealed stores by the same teacher with the same heads.
        out: directory of the new store; its form, codec and unit size are the first store's.
        conflicts: what to do where stores hold unlike labels for one row: ``error``, or keep the ``first``.
        progress: told the rows done and those there are.

    Raises:
        InvalidArgument: fewer than two stores, or an unknown ``conflicts``.
        StoreConflict: other teachers or heads, unlike labels for one row (names them), or ``out`` is something else.
        StoreCorrupt: a store is damaged.
    """
    if len(paths) < 2 or conflicts not in {"error", "first"}:
        raise InvalidArgument(f"merging takes two stores or more, and conflicts=error or first, not {conflicts!r}")
    stores = [open_store(path) for path in paths]
    first = stores[0].descriptor
    donors = Donors(stores, dict(first.heads), _named(first.teacher))
    kept, twice = donors.distinct()
    if conflicts == "error":
        _check_alike_labels(donors, twice)
    descriptor = replace(
        first,
        rows=len(kept),
        unit_rows=min(first.unit_rows, len(kept)),
        chunk_rows=min(first.chunk_rows, len(kept)),
        data={"spec": " + ".join(str(store.descriptor.data.get("spec")) for store in stores),
              "fingerprint": _fingerprint(donors, kept), "rows": len(kept)},
        document=None,
    )  # fmt: skip
    writer = create_or_open(out, descriptor, stores[0].codebooks())
    names = list(descriptor.columns())
    for unit in list(writer.missing()):
        numbers = kept[descriptor.unit_range(unit).start : descriptor.unit_range(unit).stop]
        evidence = UnitEvidence(descriptor, unit)
        with writer.begin(unit) as open_unit:
            for start in range(0, len(numbers), PIECE):
                piece = numbers[start : start + PIECE]
                columns = donors.columns(piece, names)
                open_unit.append(columns)
                donors.add_evidence(evidence, piece, columns, np.arange(start, start + len(piece)))
            open_unit.commit(extras=evidence.extras())
        if progress is not None:
            progress(min((unit + 1) * descriptor.unit_rows, len(kept)), len(kept))
    return seal(out)


def _named(teacher: Mapping[str, Any]) -> str:
    """What tells a teacher from others: its digest, or, where it has none, its name."""
    return str(teacher["spec"] if teacher["digest"] is None else teacher["digest"])


def _check_alike(store: Store, heads: dict[str, Head], teacher: str) -> None:
    theirs = _named(store.descriptor.teacher)
    if theirs != teacher:
        raise StoreConflict(
            f"{store.root} was made by the teacher {theirs}, not {teacher}; labels of different teachers do not mix: "
            "name stores of one teacher"
        )
    for name, head in heads.items():
        if (found := store.heads.get(name)) != head:
            kept = "no such head" if found is None else f"{found.to_json()}"
            raise StoreConflict(
                f"{store.root} keeps the head {name!r} as {kept}; {head.to_json()} is wanted. Rows can be taken over "
                "as they are only; generate with the settings of that store"
            )
    if set(store.heads) != set(heads):
        raise StoreConflict(f"{store.root} has the heads {sorted(store.heads)}, not {sorted(heads)}")


def _check_alike_labels(donors: Donors, pairs: NDArray[np.int64]) -> None:
    """Raise where rows of one key and view hold unlike labels; the last bits differ with batch size and hardware."""
    unlike: list[str] = []
    store = donors.stores[0]
    names = list(store.descriptor.columns())
    for start in range(0, len(pairs), PIECE):
        ours, theirs = (donors.columns(pairs[start : start + PIECE, side], names) for side in (0, 1))
        apart = [distance(store.decode(ours, head), store.decode(theirs, head)) for head in store.heads]
        worst = np.max(apart, axis=0)
        unlike += [ours["key"][index].tobytes().hex() for index in np.flatnonzero(~(worst <= ALIKE))]
    if unlike:
        roots = [str(one.root) for one in donors.stores]
        raise StoreConflict(
            f"{len(unlike):,} rows have unlike labels in {', '.join(roots)}: key {', '.join(unlike[:NAMED])}"
            f"{', ...' if len(unlike) > NAMED else ''}. Was one made with other settings or data? To keep the labels "
            "of the store named first, use --conflicts first"
        )


def _names(store: Store) -> NDArray[np.bytes_]:
    parts = [store.read_chunk(number, ["key", "view"]) for number in range(store.chunks)]
    return np.concatenate([_joined(part["key"], part["view"]) for part in parts])


def _joined(keys: NDArray[np.uint8], views: NDArray[np.uint32]) -> NDArray[np.bytes_]:
    """Key and view as 20 bytes that NumPy sorts; trailing zero bytes are no ambiguity at a fixed length."""
    both = np.concatenate([keys, views.astype("<u4").reshape(-1, 1).view(np.uint8)], axis=1)
    return np.ascontiguousarray(both).view("S20").reshape(-1)


def _fingerprint(donors: Donors, kept: NDArray[np.int64]) -> str:
    """As sources name a dataset: BLAKE3 of the keys in order (docs/FORMAT.md, section 5)."""
    hasher = blake3(b"softlabels fingerprint 1\0")
    for start in range(0, len(kept), PIECE):
        hasher.update(np.ascontiguousarray(donors.columns(kept[start : start + PIECE], ["key"])["key"]).data)
    return str(hasher.hexdigest())
