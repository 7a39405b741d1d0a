"""Merging of sealed stores: the union of their rows by key and view, copied as they are.

A row that another store holds is copied as it is if that store was made by the same teacher for the same heads. What
sealing needs comes along: the donor's tail prior, weighted by the mass these rows did not list, and the dense rows of
its probe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, StoreConflict
from softlabels.fidelity import distance
from softlabels.keys import fingerprint
from softlabels.store.format.provenance import DataRecord
from softlabels.store.format.snapshot import Snapshot
from softlabels.store.maintenance.row_copier import RowCopier
from softlabels.store.sealing import seal
from softlabels.store.storage.storage import Location
from softlabels.store.store_opening import open_store
from softlabels.store.unit_statistics import UnitStatistics
from softlabels.store.writer import create_or_open

BLOCK_ROWS = 4096
"""Rows copied at a time."""
MAX_DISTANCE = 0.01
"""Total variation up to which two labels of one row are taken to be the same answer."""
MAX_NAMED = 3
"""Conflicting rows that a message names."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Result of a merge.

    Attributes:
        snapshot: Snapshot of the merged store.
        shared_rows: Rows of a store that an earlier store has too; their labels were compared.
        checked_rows: Rows that a teacher predicted again, over all stores; 0 without a teacher.
    """

    snapshot: Snapshot
    shared_rows: int
    checked_rows: int = 0

    @property
    def rows(self) -> int:
        """Rows of the merged store."""
        return self.snapshot.rows

    @property
    def skipped(self) -> int:
        """Rows that the stores skipped because they could not be read or labelled."""
        return self.snapshot.skipped

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``merge --json`` prints it."""
        return {
            "rows": self.snapshot.rows,
            "units": self.snapshot.units,
            "digest": self.snapshot.digest,
            "shared_rows": self.shared_rows,
            "checked_rows": self.checked_rows,
        }


def merge(
    stores: Sequence[Location],
    out: Location,
    *,
    conflicts: str = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Write a store with the rows of several: the union by key and view, in their order. Resumes after an interruption.

    Args:
        stores: Locations of sealed stores by the same teacher with the same heads.
        out: Location of the new store; its format, codec and unit size are those of the first store.
        conflicts: Action if stores hold unlike labels for one row: ``error``, or keep the ``first``.
        progress: Function that is called with the numbers of rows done and of all rows.

    Raises:
        InvalidArgument: Fewer than two stores, or an unknown ``conflicts``.
        StoreConflict: Other teachers or heads, unlike labels for one row (names them), or ``out`` is something else.
        StoreCorrupt: A store is damaged.

    Example:
        >>> merge(["monday", "tuesday"], "week").rows  # doctest: +SKIP
        2000
    """
    if conflicts not in {"error", "first"}:
        raise InvalidArgument(f"conflicts: unknown, got {conflicts!r}; expected error or first")
    count = 1 if isinstance(stores, str | os.PathLike) else len(stores)
    if count < 2:
        raise InvalidArgument(
            f"merge: too few stores, got {count}; expected two or more. Name all stores whose rows are combined"
        )
    opened = [open_store(location) for location in stores]
    first = opened[0].descriptor
    copier = RowCopier(opened, dict(first.heads), first.teacher, first.inputs, first.views)
    rows, twice = copier.distinct()
    if conflicts == "error":
        _check_alike_labels(copier, twice)
    descriptor = replace(
        first,
        rows=len(rows),
        unit_rows=min(first.unit_rows, len(rows)),
        chunk_rows=min(first.chunk_rows, len(rows)),
        data=DataRecord.union(
            [store.descriptor.data for store in opened], fingerprint=_fingerprint(copier, rows), rows=len(rows)
        ),
        subset_of=None,
        document=None,
    )  # fmt: skip
    writer = create_or_open(out, descriptor, opened[0].codebooks(), opened[0].tokenizer_document())
    names = list(descriptor.columns())
    for unit in list(writer.missing()):
        numbers = rows[descriptor.unit_range(unit).start : descriptor.unit_range(unit).stop]
        statistics = UnitStatistics(descriptor, unit)
        with writer.begin(unit) as open_unit:
            for start in range(0, len(numbers), BLOCK_ROWS):
                segment = numbers[start : start + BLOCK_ROWS]
                columns = copier.columns(segment, names)
                open_unit.append(columns)
                copier.add_statistics(statistics, segment, columns, np.arange(start, start + len(segment)))
            open_unit.commit(extras=statistics.extras())
        if progress is not None:
            progress(min((unit + 1) * descriptor.unit_rows, len(rows)), len(rows))
    return Merged(snapshot=seal(out), shared_rows=len(twice) if conflicts == "error" else 0)


def _check_alike_labels(copier: RowCopier, pairs: NDArray[np.int64]) -> None:
    """Raise where rows of one key and view hold unlike labels; the last bits differ with batch size and hardware."""
    unlike: list[str] = []
    store = copier.stores[0]
    names = list(store.descriptor.columns())
    for start in range(0, len(pairs), BLOCK_ROWS):
        ours, other = (copier.columns(pairs[start : start + BLOCK_ROWS, side], names) for side in (0, 1))
        apart = [distance(store.decode(ours, head), store.decode(other, head)) for head in store.heads]
        worst = np.max(apart, axis=0)
        unlike += [ours["key"][index].tobytes().hex() for index in np.flatnonzero(~(worst <= MAX_DISTANCE))]
    if unlike:
        roots = [str(store.storage) for store in copier.stores]
        raise StoreConflict(
            f"{len(unlike):,} rows have unlike labels in {', '.join(roots)}: key {', '.join(unlike[:MAX_NAMED])}"
            f"{', ...' if len(unlike) > MAX_NAMED else ''}. Was one made with other settings or data? To keep the "
            "labels of the store named first, use conflicts='first'"
        )


def _fingerprint(copier: RowCopier, rows: NDArray[np.int64]) -> str:
    """Return the fingerprint of the rows as sources compute it (docs/FORMAT.md, section 5)."""
    blocks = (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
    return fingerprint(copier.columns(block, ["key"])["key"] for block in blocks)
