"""``sl.create``: a store for an inference loop of the user. Rows are appended, and units are committed as they fill.

The store grows: the number of rows need not be known. A unit is committed when it is full, on ``flush``, and on leaving
the context, also by an exception, because rows that were appended are good. A kill costs at most the unit in progress.
One process appends at a time. Rows are named by key and view: appending a row that is there already does nothing, so
that a loop that starts over gives the same store, and ``missing`` tells which rows the teacher still has to predict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, StoreBusy, StoreConflict
from softlabels.generation.outputs import HeadOutput, of_arrays
from softlabels.generation.unit_builder import UnitBuilder
from softlabels.keys import as_keys, row_names
from softlabels.store import Snapshot, StoreWriter, seal
from softlabels.store.unit_reader import UnitReader


class LabelWriter:
    """Writer that appends rows to a store that grows; a context manager, which seals the store if all went well.

    Args:
        store: A store that was made by ``sl.create``.

    Attributes:
        rows: Rows that were committed or appended.

    Raises:
        StoreConflict: The store was made by generate.
        StoreBusy: Another process appends to the store.
    """

    def __init__(self, store: StoreWriter) -> None:
        if not store.descriptor.grows:
            raise StoreConflict(f"{store.storage}: a store made by generate does not grow; choose another directory")
        self._store = store
        self._lock = store.lock()
        self._builder: UnitBuilder | None = None
        try:
            self._known, self._free = self._read_committed()
        except BaseException:
            self._lock.close()
            raise
        self.rows = len(self._known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        try:
            self.flush()
        finally:
            self._release()

    def missing(self, keys: Sequence[object] | NDArray[Any], views: Sequence[int] | None = None) -> NDArray[np.int64]:
        """Return the positions in ``keys`` of the rows that are not in the store yet, (n,).

        Args:
            keys: Names of B rows, as for append.
            views: View of each row; None: 0.
        """
        row_views = as_views(views, len(keys))
        names = row_names(as_keys(keys, row_views), row_views).tolist()
        return np.array([i for i, name in enumerate(names) if name not in self._known], np.int64)

    def append(
        self, keys: Sequence[object] | NDArray[Any], outputs: Mapping[str, Any], *, views: Sequence[int] | None = None
    ) -> int:
        """Append rows and return how many were new; a row that is there, by key and view, is not changed.

        Args:
            keys: Names of B rows: text, integers, 16-byte keys, or (B, 16) uint8 as sl.content_keys returns them.
            outputs: By head (B, *shape, C) logits or values; of a ragged head B arrays of (positions, C).
            views: View of each row; None: 0.

        Raises:
            InvalidArgument: Names, heads or shapes are not those of the store, or two rows have one name.
            InvalidLogits: A value is NaN or infinite; none of these rows was appended.
            StoreBusy: The writer is closed.
        """
        if self._lock.closed:
            raise StoreBusy("writer: closed; open another one with sl.create")
        row_views = as_views(views, len(keys))
        row_keys = as_keys(keys, row_views)
        heads = self._store.descriptor.heads
        if set(outputs) != set(heads):
            raise InvalidArgument(
                f"outputs: other heads than the store's, got {sorted(outputs)}; expected {sorted(heads)}"
            )
        batch = {name: of_arrays(name, outputs[name], head, len(row_keys)) for name, head in heads.items()}
        names = row_names(row_keys, row_views).tolist()
        # Ids are unique; content keys may repeat, because equal inputs have equal labels.
        first = {name: row for row, name in reversed(list(enumerate(names)))}
        new = np.array([row for row in sorted(first.values()) if names[row] not in self._known], np.int64)
        start = 0
        while start < len(new):
            room = self._store.descriptor.unit_rows - (self._builder.rows if self._builder is not None else 0)
            self._append_to_unit(row_keys, row_views, batch, new[start : start + room])
            start += room
        return len(new)

    def flush(self) -> None:
        """Commit the rows that were appended, though the unit is not full.

        Raises:
            StoreBusy: Another process committed the unit.
        """
        if self._builder is None:
            return
        builder, self._builder = self._builder, None
        with builder:
            if builder.rows and not builder.commit():
                raise StoreBusy(f"{self._store.storage}: another process committed unit {builder.unit}; append again")
        self._free += 1
        while self._store.committed(self._free):
            self._free += 1

    def close(self) -> Snapshot | None:
        """Commit the rows that were appended and seal the store; return None if it has no rows.

        Raises:
            StoreError: The commit failed.
        """
        try:
            self.flush()
            return seal(self._store.storage) if self._known else None
        finally:
            self._release()

    def _release(self) -> None:
        if self._builder is not None:
            self._builder.__exit__(None, None, None)
            self._builder = None
        self._lock.close()

    def _append_to_unit(
        self,
        keys: NDArray[np.uint8],
        views: NDArray[np.uint32],
        batch: Mapping[str, HeadOutput],
        rows: NDArray[np.int64],
    ) -> None:
        """Append the chosen rows of a batch, of which there are no more than fit into the unit."""
        if self._builder is None:
            self._builder = UnitBuilder(self._store, self._free)
        self._builder.append(keys[rows], views[rows], {head: output.take(rows) for head, output in batch.items()})
        self.rows += len(rows)
        self._known.update(row_names(keys[rows], views[rows]).tolist())
        if self._builder.rows == self._store.descriptor.unit_rows:
            self.flush()

    def _read_committed(self) -> tuple[set[bytes], int]:
        """Return the names of the rows that are committed, and the first unit that is not."""
        known: set[bytes] = set()
        units = self._store.committed_units()
        for unit in units:
            reader = UnitReader(self._store.storage, self._store.descriptor, self._store.record(unit))
            for chunk in range(len(reader.record.chunks)):
                columns = reader.read_chunk(chunk, ["key", "view"])
                known.update(row_names(columns["key"], columns["view"]).tolist())
        return known, next(i for i, unit in enumerate([*units, -1]) if i != unit)


def as_views(views: Sequence[int] | None, count: int) -> NDArray[np.uint32]:
    """Return views of rows as numbers, (count,); 0 for None.

    Args:
        views: View of each row.
        count: Number of rows.

    Raises:
        InvalidArgument: Another number of views, or a view that is no number from 0 to 2^32 - 1.
    """
    numbers = np.zeros(count, np.uint32) if views is None else np.asarray(views)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu" or not ((numbers >= 0) & (numbers < 2**32)).all():
        raise InvalidArgument(f"views: invalid, got {views!r}; expected {count} numbers from 0 to 2^32 - 1")
    return numbers.astype(np.uint32)
