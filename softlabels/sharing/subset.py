"""A part of a store as a store of its own, with its own digest and a record of the snapshot it was taken from.

Rows are read in their order, verified, and written by the commit protocol. So the copy resumes after an interruption,
several processes may work on it, and it is sealed when it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from softlabels.keys import fingerprint
from softlabels.sharing.narrowing import Columns, NarrowHead
from softlabels.sharing.selection import Selection
from softlabels.sharing.units import TransferProgress, copy_units
from softlabels.store import Descriptor, Store, StoreWriter, UnitStatistics, create_or_open, open_store, seal
from softlabels.store.maintenance.row_copier import add_dense_rows
from softlabels.store.storage.storage import Storage

BLOCK_ROWS = 4096
"""Rows that are copied at a time."""


class SubsetCopier:
    """Writes the selected rows of a store to another place.

    Args:
        source: Store to copy from.
        target: Storage of the copy.
        selection: What the copy holds.
        progress: Called with rows done and rows in all.

    Attributes:
        units: Units written.
        bytes: Bytes of their shards.

    Raises:
        InvalidArgument: The selection does not fit the store.
        StoreConflict: The target holds another store, or something else.
    """

    def __init__(self, source: Store, target: Storage, selection: Selection, progress: TransferProgress | None) -> None:
        self.units = 0
        self.bytes = 0
        self._source = source
        self._progress = progress
        self._heads = [NarrowHead.of(source, name, selection.top) for name in selection.head_names(source)]
        self._rows = selection.row_numbers(source)
        self._descriptor = self._describe(selection)
        self._names = [
            name
            for name in source.descriptor.columns()
            if name.partition("/")[0] not in set(source.heads) - {head.name for head in self._heads}
        ]
        books = {head.name: book for head in self._heads if (book := source.codebook(head.name)) is not None}
        self._writer: StoreWriter = create_or_open(target, self._descriptor, books, source.tokenizer_document())
        self._done = 0
        self._lock = Lock()

    def copy_all(self, workers: int) -> Store:
        """Write the units that are missing, seal the copy and return it.

        Args:
            workers: Units that are written at the same time.
        """
        missing = list(self._writer.missing())
        self._done = len(self._rows) - sum(len(self._descriptor.unit_range(unit)) for unit in missing)
        copy_units(self._copy, missing, workers)
        return open_store(self._writer.storage, snapshot=seal(self._writer.storage).number)

    def _describe(self, selection: Selection) -> Descriptor:
        """Return the descriptor of the copy."""
        descriptor, rows = self._source.descriptor, len(self._rows)
        return replace(
            descriptor,
            rows=rows,
            unit_rows=min(descriptor.unit_rows, rows),
            chunk_rows=min(descriptor.chunk_rows, rows),
            heads={head.name: head.head for head in self._heads},
            data=replace(descriptor.data, fingerprint=fingerprint(self._keys()), rows=rows),
            subset_of=selection.to_record(self._source.snapshot.digest),
            document=None,
        )

    def _keys(self) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(self._rows), BLOCK_ROWS):
            yield self._source.take(self._rows[start : start + BLOCK_ROWS], ["key"])["key"]

    def _copy(self, unit: int) -> None:
        """Write a unit; another process may have written it meanwhile."""
        unit_range = self._descriptor.unit_range(unit)
        statistics = UnitStatistics(self._descriptor, unit)
        with self._writer.begin(unit) as open_unit:
            for start in range(unit_range.start, unit_range.stop, BLOCK_ROWS):
                rows = self._rows[start : min(start + BLOCK_ROWS, unit_range.stop)]
                inside = np.arange(start, start + len(rows), dtype=np.int64) - unit_range.start
                open_unit.append(self._block(rows, inside, statistics))
            is_own = open_unit.commit(extras=statistics.extras(), reproducible=True)
        size = self._writer.record(unit).size
        with self._lock:
            self.units += is_own
            self.bytes += size if is_own else 0
            self._done += len(unit_range)
            if self._progress is not None:
                self._progress(self._done, len(self._rows))

    def _block(self, rows: NDArray[np.int64], inside: NDArray[np.int64], statistics: UnitStatistics) -> Columns:
        """Return the columns of rows, and add what is known of them to the statistics of their unit."""
        columns = self._source.take(rows, self._names)
        prefixes = {head.name for head in self._heads}
        copied = {name: array for name, array in columns.items() if name.partition("/")[0] not in prefixes}
        for head in self._heads:
            wants_sums = statistics.wants_sums(head.name)
            arrays, sums = head.columns(columns, rows, sums=wants_sums)
            copied |= arrays
            if sums is not None:
                statistics.add_sums(head.name, sums)
            add_dense_rows(self._source, head.name, statistics, rows, inside)
        return copied
