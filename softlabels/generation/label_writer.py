"""``sl.create``: for people with their own inference loop. Rows are appended, units are committed as they fill.

The store grows: nobody says beforehand how many rows it will have. A unit is committed when it is full, on ``flush``,
and on leaving the context, also by an exception, because rows that were appended are good; what a kill can cost is the
unit at hand. One process appends at a time. Rows are told apart by key and view: appending one that is there already
does nothing, so that a loop that starts over is right, and ``missing`` spares it the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from softlabels import encodings
from softlabels.columns import ranges
from softlabels.encodings import Codebook
from softlabels.errors import InvalidArgument, StoreBusy, StoreConflict
from softlabels.generation.pilot import USUAL_POSITIONS, existing_heads, found_encoding, with_codebook
from softlabels.generation.unit_encoder import UnitEncoder
from softlabels.keys import as_keys, row_names
from softlabels.labels import Head, canonical_temperatures
from softlabels.store import (
    DataRecord,
    Descriptor,
    Snapshot,
    StoreWriter,
    TeacherRecord,
    UnitWriter,
    create_or_open,
    default_geometry,
    seal,
)
from softlabels.store.format.descriptor import LENGTH, OWN_COLUMNS
from softlabels.store.format.limits import MAX_UNIT_CHUNKS
from softlabels.store.unit_reader import UnitReader

if TYPE_CHECKING:
    from torch import Tensor

Outputs = Mapping[str, "Tensor | NDArray[Any] | Sequence[Tensor | NDArray[Any]]"]


def create(
    path: str | Path,
    *,
    heads: Mapping[str, Head],
    teacher: str = "",
    teacher_digest: str | None = None,
    shard_format: str = "zarr",
    codec: str = "zstd",
    unit_rows: int | None = None,
    seed: int = 0,
    pilot: Mapping[str, Tensor | NDArray[Any]] | None = None,
) -> LabelWriter:
    """A writer on a store that grows: a new one, or the one at ``path`` if it was created with the same settings.

    Args:
        path: directory of the store.
        heads: outputs of the teacher, by name, e.g. ``{"logits": Head(classes=1000, encoding="topk:32")}``. An encoding
            may say what is to be reached, as for generate (``threshold:bytes=20``); the pilot decides how.
        teacher: what you call the teacher; without a digest, all that tells it from another.
        teacher_digest: names its weights, where you have such a name.
        shard_format: ``zarr`` or ``parquet``.
        codec: ``zstd`` or ``lz4``.
        unit_rows: rows committed at a time; None: from the size of a row.
        seed: of what is drawn.
        pilot: by head with an encoding of several tail priors or one that says what is to be reached, (n, C) logits of
            a few thousand rows or positions like those to come; for a new store.

    Raises:
        InvalidArgument: heads or settings that cannot be meant.
        StoreConflict: another store is there, or something that is no store.
        StoreBusy: another process is appending to it.

    Example:
        >>> import numpy as np, softlabels as sl
        >>> with sl.create("labels", heads={"logits": sl.Head(classes=10, encoding="topk:3")}) as writer:
        ...     rows = writer.append(["a", "b"], {"logits": np.zeros((2, 10), np.float32)})
        >>> sl.open("labels").rows
        2
    """
    canonical: dict[str, Head] = {}
    codebooks: dict[str, Codebook] = {}
    existing = existing_heads(path)
    for name, head in heads.items():
        given = partial((pilot or {}).get, name)
        before = existing.get(name)
        temperatures = canonical_temperatures(head.temperatures, before.temperatures if before else ())
        found = replace(head, encoding=found_encoding(head, before, given, codec), temperatures=temperatures)
        canonical[name], fitted = with_codebook(found, existing.get(name), given, seed)
        codebooks |= {} if fitted is None else {name: fitted}
    chunk_rows = 1
    if unit_rows is None or unit_rows > 0:
        unit_rows, chunk_rows = _geometry(canonical, unit_rows)
    descriptor = Descriptor(
        rows=None,
        unit_rows=unit_rows,
        chunk_rows=chunk_rows,
        heads=canonical,
        teacher=TeacherRecord(spec=teacher, digest=teacher_digest),
        data=DataRecord(spec="appended", fingerprint=None, rows=None),
        shard_format=shard_format,
        codec=codec,
        seed=seed,
    )
    return LabelWriter(create_or_open(path, descriptor, codebooks))


def _geometry(heads: Mapping[str, Head], unit_rows: int | None) -> tuple[int, int]:
    size: float = sum(column.entry_bytes for column in OWN_COLUMNS.values())
    for head in heads.values():
        each = encodings.row_bytes(encodings.parse(head.encoding, classes=head.classes), head)
        size += each * (USUAL_POSITIONS if head.ragged else 1)
    rows, chunk = default_geometry(size, None)
    if unit_rows is not None:
        rows, chunk = unit_rows, min(max(chunk, -(-unit_rows // MAX_UNIT_CHUNKS)), unit_rows)
    return rows, chunk


class LabelWriter:
    """Appends rows to a store that grows; a context manager, which seals the store when all went well.

    Attributes:
        rows: committed and appended.
    """

    def __init__(self, store: StoreWriter) -> None:
        if not store.descriptor.grows:
            raise StoreConflict(f"{store.storage} was made by generate and does not grow; choose another directory")
        self._store = store
        self._schema = store.descriptor.columns()
        self._lock = store.lock()
        self._unit: UnitWriter | None = None
        self._encoder: UnitEncoder | None = None
        self._in_unit = 0
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
        """Positions in ``keys`` of the rows that still are to be appended, (n,).

        Args:
            keys: B names of rows, as for append.
            views: the view of each; None: 0.
        """
        numbers = _views(views, len(keys))
        names = row_names(as_keys(keys, numbers), numbers).tolist()
        return np.array([i for i, name in enumerate(names) if name not in self._known], np.int64)

    def append(
        self, keys: Sequence[object] | NDArray[Any], outputs: Outputs, *, views: Sequence[int] | None = None
    ) -> int:
        """Append rows; those that are there already, by key and view, are left as they are.

        Args:
            keys: B names of rows: text, integers, 16-byte keys, or (B, 16) uint8 as sl.content_keys gives.
            outputs: by head (B, *shape, C) logits or values; of a ragged head B arrays of (positions, C).
            views: the view of each row; None: 0.

        Returns:
            How many rows were new.

        Raises:
            InvalidArgument: names, heads or shapes that are not the store's.
            InvalidLogits: NaN, infinities; none of these rows was appended.
        """
        if self._lock.closed:
            raise StoreBusy("this writer is closed; open another with sl.create")
        numbers = _views(views, len(keys))
        named = as_keys(keys, numbers)
        if set(outputs) != set(self._store.descriptor.heads):
            wanted = sorted(self._store.descriptor.heads)
            raise InvalidArgument(f"outputs for heads {sorted(outputs)} were given; the store has {wanted}")
        batches = {name: _positions(name, outputs[name], len(named), head.ragged)
                   for name, head in self._store.descriptor.heads.items()}  # fmt: skip
        names = row_names(named, numbers).tolist()
        first = {name: i for i, name in reversed(list(enumerate(names)))}
        new = np.array([i for i, name in enumerate(names) if name not in self._known and first[name] == i], np.int64)
        for start in range(0, len(new), self._store.descriptor.unit_rows):
            self._append_new(named, numbers, batches, new[start : start + self._store.descriptor.unit_rows])
        return len(new)

    def flush(self) -> None:
        """Commit what was appended now, though the unit is not full."""
        if self._unit is None or self._encoder is None:
            return
        unit, self._unit = self._unit, None
        with unit:
            left = self._encoder.evidence
            if self._in_unit and not unit.commit(extras=left.extras(), fidelity=left.fidelity()):
                raise StoreBusy(f"{self._store.storage}: another process has committed unit {unit.unit}; append again")
        self._free += 1
        while self._store.committed(self._free):
            self._free += 1

    def close(self) -> Snapshot | None:
        """Commit what was appended and seal the store; None where it has no rows."""
        try:
            self.flush()
            return seal(self._store.storage) if self._known else None
        finally:
            self._release()

    def _release(self) -> None:
        if self._unit is not None:
            self._unit.__exit__(None, None, None)
            self._unit = None
        self._lock.close()

    def _append_new(
        self,
        keys: NDArray[np.uint8],
        views: NDArray[np.uint32],
        batches: Mapping[str, tuple[Tensor, NDArray[np.int64] | None]],
        wanted: NDArray[np.int64],
    ) -> None:
        """Append the rows ``wanted``, of which there are no more than a unit has."""
        room = self._store.descriptor.unit_rows - self._in_unit if self._unit is not None else len(wanted)
        for part in (wanted[:room], wanted[room:]):
            if len(part):
                self._append_to_unit(keys, views, batches, part)

    def _append_to_unit(
        self,
        keys: NDArray[np.uint8],
        views: NDArray[np.uint32],
        batches: Mapping[str, tuple[Tensor, NDArray[np.int64] | None]],
        wanted: NDArray[np.int64],
    ) -> None:
        if self._unit is None or self._encoder is None:
            self._unit, self._in_unit = self._store.begin(self._free), 0
            self._encoder = UnitEncoder(self._store.descriptor, self._free, self._store.codebooks)
        rows = np.arange(self._in_unit, self._in_unit + len(wanted), dtype=np.int64)
        columns: dict[str, NDArray[Any]] = {"key": keys[wanted], "view": views[wanted]}
        encoded = {}
        for head, (values, all_lengths) in batches.items():
            chosen = values[_positions_of(wanted, all_lengths)]
            lengths = None if all_lengths is None else all_lengths[wanted]
            encoded[head] = (self._encoder.encode(head, chosen, rows, lengths), chosen, lengths)
            columns |= {f"{head}/{name}": array for name, array in encoded[head][0].arrays.items()}
            if lengths is not None:
                columns[f"{head}/{LENGTH}"] = lengths.astype(np.uint32)
        self._unit.append(columns)
        for head, (kept, chosen, lengths) in encoded.items():
            self._encoder.keep(head, kept, chosen, rows, lengths)
        self._in_unit += len(wanted)
        self.rows += len(wanted)
        self._known.update(row_names(columns["key"], columns["view"]).tolist())
        if self._in_unit == self._store.descriptor.unit_rows:
            self.flush()

    def _read_committed(self) -> tuple[set[bytes], int]:
        """Rows that are committed, and the first unit that is not."""
        known: set[bytes] = set()
        units = self._store.committed_units()
        for unit in units:
            reader = UnitReader(self._store.storage, self._store.descriptor, self._store.record(unit))
            for number in range(len(reader.record.chunks)):
                found = reader.read_chunk(number, ["key", "view"])
                known.update(row_names(found["key"], found["view"]).tolist())
        return known, next(i for i, unit in enumerate([*units, -1]) if i != unit)


def _views(views: Sequence[int] | None, count: int) -> NDArray[np.uint32]:
    numbers = np.zeros(count, np.uint32) if views is None else np.asarray(views)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu" or not ((numbers >= 0) & (numbers < 2**32)).all():
        raise InvalidArgument(f"views are {count} numbers from 0 to 2^32 - 1, not {views!r}")
    return numbers.astype(np.uint32)


def _positions(name: str, given: Any, count: int, is_ragged: bool) -> tuple[Tensor, NDArray[np.int64] | None]:  # noqa: FBT001
    """A head's values as one tensor, (B, ...), or (positions of all rows, C) with the lengths of the rows."""
    import torch

    if not is_ragged:
        values = torch.as_tensor(given)
        if len(values) != count:
            raise InvalidArgument(f"head {name!r} has {len(values)} rows of outputs for {count} keys")
        return values, None
    parts = [torch.as_tensor(part) for part in given]
    if len(parts) != count or any(part.ndim != 2 for part in parts):
        raise InvalidArgument(f"head {name!r} is ragged: give one (positions, classes) array for each of {count} keys")
    return torch.cat(parts), np.array([len(part) for part in parts], np.int64)


def _positions_of(rows: NDArray[np.int64], lengths: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if lengths is None:
        return rows
    return ranges((np.cumsum(lengths) - lengths)[rows], lengths[rows])
