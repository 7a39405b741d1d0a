"""Rows of stores that exist, by key: what merging stores and topping one up have in common.

A row that another store holds is copied as it is if that store was made by the same teacher for the same heads. What
sealing needs comes along: the donor's tail prior, weighted by the mass these rows did not list, and the dense rows of
its probe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, StoreConflict
from softlabels.fidelity import distance
from softlabels.store.format.provenance import DataRecord
from softlabels.store.format.snapshot import Snapshot
from softlabels.store.maintenance.row_copier import RowCopier
from softlabels.store.sealed_store import open_store
from softlabels.store.sealing import seal
from softlabels.store.storage.storage import Location
from softlabels.store.unit_statistics import UnitStatistics
from softlabels.store.writer import create_or_open

PIECE = 4096
"""Rows copied at a time."""
ALIKE = 0.01
"""Total variation up to which two labels of one row are taken to be the same answer."""
NAMED = 3
"""Conflicting rows that a message names."""


def merge(
    paths: Sequence[Location],
    out: Location,
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
    donors = RowCopier(stores, dict(first.heads), first.teacher.identity, first.inputs)
    kept, twice = donors.distinct()
    if conflicts == "error":
        _check_alike_labels(donors, twice)
    descriptor = replace(
        first,
        rows=len(kept),
        unit_rows=min(first.unit_rows, len(kept)),
        chunk_rows=min(first.chunk_rows, len(kept)),
        data=DataRecord.union(
            [store.descriptor.data for store in stores], fingerprint=_fingerprint(donors, kept), rows=len(kept)
        ),
        document=None,
    )  # fmt: skip
    writer = create_or_open(out, descriptor, stores[0].codebooks(), stores[0].tokenizer_document())
    names = list(descriptor.columns())
    for unit in list(writer.missing()):
        numbers = kept[descriptor.unit_range(unit).start : descriptor.unit_range(unit).stop]
        evidence = UnitStatistics(descriptor, unit)
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


def _check_alike_labels(donors: RowCopier, pairs: NDArray[np.int64]) -> None:
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
        roots = [str(one.storage) for one in donors.stores]
        raise StoreConflict(
            f"{len(unlike):,} rows have unlike labels in {', '.join(roots)}: key {', '.join(unlike[:NAMED])}"
            f"{', ...' if len(unlike) > NAMED else ''}. Was one made with other settings or data? To keep the labels "
            "of the store named first, use --conflicts first"
        )


def _fingerprint(donors: RowCopier, kept: NDArray[np.int64]) -> str:
    """As sources name a dataset: BLAKE3 of the keys in order (docs/FORMAT.md, section 5)."""
    hasher = blake3(b"softlabels fingerprint 1\0")
    for start in range(0, len(kept), PIECE):
        hasher.update(np.ascontiguousarray(donors.columns(kept[start : start + PIECE], ["key"])["key"]).data)
    return str(hasher.hexdigest())
