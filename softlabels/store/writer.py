"""Writing units: the commit protocol (docs/FORMAT.md, section 7).

A unit is streamed to a temporary file, synced, renamed to a name that contains a random attempt, and committed by
linking its record to its name. An earlier failure leaves orphaned files and no unit. If two writers race for a unit,
one record is stored, and the shard of the other writer is orphaned. Nothing is deleted but the writer's own temporary
file.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings import Codebook
from softlabels.errors import InvalidArgument, StorageFailed, StoreConflict, StoreError
from softlabels.fidelity import Fidelity
from softlabels.store.format import array_file, canonical_json, paths
from softlabels.store.format.codebooks import read_codebook, write_codebook
from softlabels.store.format.descriptor import Descriptor, parse_descriptor
from softlabels.store.format.descriptor_file import find_descriptor, read_descriptor
from softlabels.store.format.difference import difference
from softlabels.store.format.identity import named_descriptors
from softlabels.store.format.limits import MAX_CHUNK_BYTES, decoded_bytes
from softlabels.store.format.record import Record, parse_record, read_record
from softlabels.store.format.skipped_rows import SkippedRow
from softlabels.store.format.tokenizer_file import write_tokenizer
from softlabels.store.shards.hashed_file import HashedFile
from softlabels.store.shards.registry import shard_format
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.storage import TEMPORARY, Location, Lock, Storage, UnitLocks
from softlabels.version import __version__

_BEFORE_DESCRIPTOR = {TEMPORARY, paths.CODEBOOKS, paths.TOKENIZERS}
"""Directories that are written before the descriptor."""


def create_or_open(
    location: Location,
    descriptor: Descriptor,
    codebooks: Mapping[str, Codebook] | None = None,
    tokenizer: bytes | None = None,
) -> StoreWriter:
    """Return a writer of a store: a new one, or the existing one if it is the same.

    Args:
        location: Location of the store.
        descriptor: Descriptor of the store.
        codebooks: Codebooks of the heads that name one, for a new store.
        tokenizer: Document of the tokenizer that the inputs of a new store name.

    Raises:
        StoreConflict: Another store is there, or something else; the message says what differs.
        InvalidArgument: No reader would accept the descriptor; nothing was written.
        StorageFailed: The storage refused.
    """
    storage = open_storage(location)
    existing = find_descriptor(storage)
    if existing is None:
        document = _document(descriptor)
        storage.prepare()
        _check_empty(storage, descriptor)
        for codebook in (codebooks or {}).values():
            write_codebook(storage, codebook)
        write_tokenizer(storage, descriptor, tokenizer)
        storage.put_if_absent(paths.DESCRIPTOR, document)
        existing = read_descriptor(storage)
    if existing.work != descriptor.work:
        raise StoreConflict(
            f"{storage} holds another store: {_difference(existing, descriptor)}. Name another directory with "
            "out=, or generate with the same settings"
        )
    return StoreWriter(storage, existing)


_FROM_HEADS = {"unit_rows", "chunk_rows", "requires"}


def _difference(existing: Descriptor, descriptor: Descriptor) -> str:
    """Return the difference of two descriptors, with names in place of digests that differ.

    What follows from the heads is not mentioned where these differ.
    """
    before, after = existing.work, descriptor.work
    if before["heads"] != after["heads"]:
        before, after = ({name: work[name] for name in work.keys() - _FROM_HEADS} for work in (before, after))
    titles = {
        "teacher": (existing.teacher.title, descriptor.teacher.title),
        "data": (existing.data.title, descriptor.data.title),
    }
    for name, (old, new) in titles.items():
        if before[name] != after[name]:
            before[name], after[name] = old, new
    return difference(before, after)


def _check_empty(storage: Storage, descriptor: Descriptor) -> None:
    """Raise StoreConflict if something other than this store is there.

    A store that has lost its descriptor gets it back if its records or its snapshot name the same one.
    """
    others = [name for name in storage.list_names("") if name not in _BEFORE_DESCRIPTOR]
    if not others or paths.DESCRIPTOR in storage.list_names(""):  # another writer may have made the store meanwhile
        return
    named = set().union(*named_descriptors(storage))
    if not named:
        raise StoreConflict(
            f"{storage} holds {', '.join(others[:3])} and no store; name an empty or a new directory with out="
        )
    if descriptor.digest not in named:
        raise StoreConflict(
            f"{storage} holds a store without {paths.DESCRIPTOR} that was made with other settings; run the command "
            "that made it, with the same names of teacher and data, or name another directory with out="
        )


def _document(descriptor: Descriptor) -> bytes:
    """Return the bytes of the descriptor of a new store; raises InvalidArgument if no reader would accept them."""
    try:
        data = canonical_json.to_bytes(descriptor.to_json())
        parse_descriptor(data)
    except ValueError as error:
        raise InvalidArgument(
            f"this descriptor could not be read again: {error}; give teacher and data short names in plain text"
        ) from None
    return data


class StoreWriter:
    """Access of a generator to a store.

    Attributes:
        storage: Storage of the store; `str(storage)` is its location.
        descriptor: Contents and geometry of the store.
    """

    def __init__(self, storage: Storage, descriptor: Descriptor) -> None:
        self.storage = storage
        self.descriptor = descriptor

    @cached_property
    def codebooks(self) -> dict[str, Codebook]:
        """Verified codebooks of the heads that have one."""
        codebooks = {head: read_codebook(self.storage, self.descriptor, head) for head in self.descriptor.heads}
        return {head: codebook for head, codebook in codebooks.items() if codebook is not None}

    def missing(self) -> Iterator[int]:
        """Yield the units of a store of known size that have no record yet, ascending."""
        committed = set(self.committed_units())
        return (unit for unit in range(self.descriptor.units) if unit not in committed)

    def committed_units(self) -> list[int]:
        """Return the units that have a durable record, ascending."""
        return paths.durable_units(self.storage)

    def lock(self) -> Lock:
        """Become the only process that appends, until the lock is closed.

        Raises:
            StoreBusy: Another process holds the lock.
        """
        return self.storage.lock("appending")

    def claims(self) -> UnitLocks:
        """Return claims on units, a context manager; processes of this machine then start with other units."""
        return self.storage.claim()

    def committed(self, unit: int) -> bool:
        """Return True if ``unit`` has a durable record."""
        name = paths.record_path(unit)
        if self.storage.info(name) is None:
            return False
        self.storage.settle(posixpath.dirname(name))
        return True

    def record(self, unit: int) -> Record:
        """Return the record of ``unit``.

        Raises:
            StoreCorrupt: The unit is not committed, or its record is damaged.
        """
        return read_record(self.storage, unit, self.descriptor)

    def begin(self, unit: int) -> UnitWriter:
        """Start writing a unit; use it as a context manager.

        Raises:
            InvalidArgument: The store has no such unit.
        """
        if unit < 0 or not (self.descriptor.grows or unit < self.descriptor.units):
            raise InvalidArgument(f"there is no unit {unit}; the store has {self.descriptor.units}")
        return UnitWriter(self.storage, self.descriptor, unit)


class UnitWriter:
    """Streams one unit to disk and commits it; without a commit, leaving the context leaves nothing.

    Memory: the rows of one chunk, and the batch being appended; all rows where columns are ragged and shards are Zarr.

    Attributes:
        unit: Index of the unit.
    """

    def __init__(self, storage: Storage, descriptor: Descriptor, unit: int) -> None:
        self._storage = storage
        self._descriptor = descriptor
        self.unit = unit
        self._max_rows = descriptor.unit_rows if descriptor.grows else len(descriptor.unit_range(unit))
        self._columns = descriptor.columns()
        self._waiting: list[dict[str, NDArray[Any]]] = []
        self._rows_waiting = 0
        self._rows = 0
        self._keys = blake3()
        self._file = storage.create()
        self._sink = HashedFile(self._file)
        self._shard = shard_format(descriptor.shard_format).open_writer(self._sink, descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._sink.drop()
        self._file.discard()

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows: (n, *shape) of every column, in the descriptor's dtypes; (entries, *shape) of ragged ones.

        Raises:
            InvalidArgument: Columns, dtypes or shapes are not those of the store, or there are too many rows.
        """
        rows = self._checked(columns)
        if self._rows + rows > self._max_rows:
            raise InvalidArgument(f"unit {self.unit} has {self._max_rows} rows, not more")
        self._rows += rows
        self._rows_waiting += rows
        self._waiting.append(dict(columns))
        while self._rows_waiting >= self._descriptor.chunk_rows:
            self._flush(self._descriptor.chunk_rows)

    def commit(
        self,
        *,
        extras: Mapping[str, NDArray[Any]] | None = None,
        fidelity: Mapping[str, Fidelity] | None = None,
        reproducible: bool = False,
        skipped: Sequence[SkippedRow] = (),
    ) -> bool:
        """Make the unit durable and visible; returns False if another writer has committed it first.

        Args:
            extras: Arrays that sealing needs (sums for the tail prior, dense rows), stored beside the shard.
            fidelity: Fidelity of a few rows by head, stored in the record.
            reproducible: If True, name the attempt by the bytes of shard and extras, so that equal rows give an equal
                record; otherwise by a random number.
            skipped: Rows of the unit that have no labels, ascending; those of the others stay.

        Raises:
            StoreError: Rows are missing, or readers would refuse the record; nothing was committed.
            StorageFailed: The storage refused, or the store was removed; nothing was committed.
            StorageUnknown: It is unknown if the unit was committed.
        """
        descriptor = self._descriptor
        self._check_complete(len(skipped))
        if self._rows_waiting:
            self._flush(self._rows_waiting)
        chunks = self._shard.finish()
        footer = self._sink.cut()
        self._check_store()
        extras_file = array_file.to_bytes(extras) if extras else None
        attempt = self._digest(extras_file) if reproducible else uuid.uuid4().hex
        self._file.publish(paths.shard_path(self.unit, attempt, descriptor.shard_format))
        record = Record(
            unit=self.unit,
            rows=self._rows,
            attempt=attempt,
            size=self._sink.size,
            blake3=self._sink.digest,
            chunks=tuple(chunks),
            footer=footer,
            keys=self._keys.hexdigest(),
            extras=self._write_extras(attempt, extras_file),
            fidelity=dict(fidelity or {}),
            skipped=tuple(skipped),
            descriptor=descriptor.digest,
            teacher=descriptor.teacher.digest or "",
            software=f"softlabels {__version__}",
        )
        return self._storage.put_if_absent(paths.record_path(self.unit), self._record_bytes(record))

    def _check_complete(self, skipped: int) -> None:
        """Raise StoreError unless all rows of the unit were appended or skipped; a unit that grows needs one."""
        total = self._rows + skipped
        if total != self._max_rows and not (self._descriptor.grows and self._rows):
            raise StoreError(
                f"unit {self.unit} has {self._max_rows} rows, but {total} were given; nothing was committed"
            )

    def _check_store(self) -> None:
        """Raise StorageFailed if the store was removed."""
        if self._storage.info(paths.DESCRIPTOR) is None:
            raise StorageFailed(
                f"{self._storage}: the store was removed while it was being written, got no {paths.DESCRIPTOR}; "
                "nothing was committed. Run the same command again to make it anew"
            )

    def _digest(self, extras: tuple[bytes, str] | None) -> str:
        """Return a name of the attempt that follows from the bytes of the shard and of the extras."""
        return str(blake3(f"{self._sink.digest} {extras[1] if extras else ''}".encode()).hexdigest()[:32])

    def _record_bytes(self, record: Record) -> bytes:
        """Return the bytes of a record; raises StoreError if readers would refuse them."""
        try:
            data = canonical_json.to_bytes(record.to_json())
            parse_record(data, self.unit, self._descriptor)
        except ValueError as error:
            raise StoreError(
                f"readers would refuse the record of unit {self.unit}: {error}; nothing was committed; give the "
                "teacher a shorter digest, and a fidelity that is finite"
            ) from None
        return data

    def _write_extras(self, attempt: str, extras: tuple[bytes, str] | None) -> tuple[int, str] | None:
        """Store the extras of an attempt, given with their hash; returns their size and hash."""
        if extras is None:
            return None
        data, digest = extras
        self._storage.put_if_absent(paths.extras_path(self.unit, attempt), data)
        return len(data), digest

    def _checked(self, columns: Mapping[str, NDArray[Any]]) -> int:
        """Return the number of rows in columns, once they are sure to be those of the store."""
        if set(columns) != set(self._columns):
            raise InvalidArgument(f"columns {sorted(columns)} were given; the store has {sorted(self._columns)}")
        rows = len(columns["key"])
        for name, column in self._columns.items():
            array = columns[name]
            count = rows if column.per is None else ragged.entries(columns, self._columns, name)
            if array.shape != (count, *column.shape) or array.dtype != np.dtype(column.dtype):
                raise InvalidArgument(
                    f"column {name!r} is {array.dtype} {array.shape}; the store keeps {column.dtype} "
                    f"{(count, *column.shape)}"
                )
        return rows

    def _flush(self, rows: int) -> None:
        """Write the first ``rows`` waiting rows as a chunk."""
        joined = ragged.join(self._waiting)
        chunk = ragged.cut(joined, self._columns, 0, rows)
        form = self._descriptor.shard_format
        size = sum(decoded_bytes(column, len(chunk[name]), form) for name, column in self._columns.items())
        if size > MAX_CHUNK_BYTES:
            raise InvalidArgument(
                f"chunk: got {rows} rows of {size:,} bytes decoded; expected at most {MAX_CHUNK_BYTES:,}. Make the "
                "store with fewer rows per chunk"
            )
        self._keys.update(np.ascontiguousarray(chunk["key"]).data)
        self._shard.write_chunk(chunk)
        self._rows_waiting -= rows
        rest = self._rows_waiting
        self._waiting = [ragged.cut(joined, self._columns, rows, rows + rest)] if rest else []
