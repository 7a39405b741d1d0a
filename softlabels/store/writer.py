"""Writing units: the commit protocol (docs/FORMAT.md, section 7).

A unit is streamed to a temporary file, synced, renamed to a name that contains a random attempt, and committed by the
one act of linking its record to its name. Whatever happens before that leaves litter and no unit; two writers that race
for a unit leave one record, and the loser's shard is litter too. Nothing is ever deleted but our own temporary file.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings import Codebook
from softlabels.errors import InvalidArgument, StoreConflict, StoreError
from softlabels.fidelity import Fidelity
from softlabels.store.format import array_file, canonical_json, paths
from softlabels.store.format.codebooks import read_codebook, write_codebook
from softlabels.store.format.descriptor import Descriptor, parse_descriptor, read_descriptor
from softlabels.store.format.limits import MAX_CHUNK_BYTES, MAX_RECORD_BYTES, decoded_bytes
from softlabels.store.format.record import Record, parse_record
from softlabels.store.format.tokenizer_file import write_tokenizer
from softlabels.store.shards.hashed_file import HashedFile
from softlabels.store.shards.shard import open_writer
from softlabels.store.storage import posix
from softlabels.version import __version__

_BEFORE_DESCRIPTOR = {posix.TEMPORARY, paths.CODEBOOKS, paths.TOKENIZERS}
"""Directories that are written before the descriptor."""


def create_or_open(
    path: str | Path,
    descriptor: Descriptor,
    codebooks: Mapping[str, Codebook] | None = None,
    tokenizer: bytes | None = None,
) -> StoreWriter:
    """A writer on the store at ``path``: a new one, or the one that is there if it is the same.

    Args:
        path: directory of the store.
        descriptor: of the store.
        codebooks: of heads that name one, for a new store.
        tokenizer: document of the tokenizer that the inputs of a new store name.

    Raises:
        StoreConflict: another store is there, or something that is no store; says what differs.
        InvalidArgument: a descriptor that no reader would take; nothing was written.
    """
    root = Path(path)
    existing = root / paths.DESCRIPTOR
    if root.exists() and not root.is_dir():
        raise StoreConflict(f"{root} is a file; name a directory for the store")
    if not existing.exists():
        others = [name for name in posix.list_names(root, root) if name not in _BEFORE_DESCRIPTOR]
        if others and not existing.exists():  # another writer may have made the store meanwhile
            raise StoreConflict(
                f"{root} holds {', '.join(others[:3])} and no store; name an empty or a new directory with --out"
            )
        document = _document(descriptor)
        posix.make_directory(root, root)
        for codebook in (codebooks or {}).values():
            write_codebook(root, codebook)
        write_tokenizer(root, descriptor, tokenizer)
        posix.put_if_absent(root, existing, document)
    found = read_descriptor(root)
    if found.work != descriptor.work:
        raise StoreConflict(
            f"{root} holds another store: {_difference(found, descriptor)}. Name another directory with --out, or "
            "generate with the same settings"
        )
    return StoreWriter(root, found)


def _document(descriptor: Descriptor) -> bytes:
    """What a new store's descriptor file is to hold, once readers are sure to take it."""
    try:
        data = canonical_json.to_bytes(descriptor.to_json())
        parse_descriptor(data)
    except ValueError as error:
        raise InvalidArgument(
            f"this descriptor could not be read again: {error}; give teacher and data short names in plain text"
        ) from None
    return data


def _difference(found: Descriptor, wanted: Descriptor) -> str:
    """The first thing in which two descriptors differ, for a message."""
    there, here = found.work, wanted.work
    name = next((name for name in here if there.get(name) != here[name]), "unknown keys")
    return f"its {name} is {there.get(name)}, here it would be {here.get(name)}"


class StoreWriter:
    """What generators do with a store.

    Attributes:
        root: its directory.
        descriptor: what it is.
    """

    def __init__(self, root: Path, descriptor: Descriptor) -> None:
        self.root = root
        self.descriptor = descriptor

    @cached_property
    def codebooks(self) -> dict[str, Codebook]:
        """The codebooks of the heads that have one, verified."""
        found = {head: read_codebook(self.root, self.descriptor, head) for head in self.descriptor.heads}
        return {head: codebook for head, codebook in found.items() if codebook is not None}

    def missing(self) -> Iterator[int]:
        """Units that have no record yet, ascending; not known of a store that grows."""
        committed = set(paths.committed_units(self.root))
        return (unit for unit in range(self.descriptor.units) if unit not in committed)

    def committed_units(self) -> Iterator[int]:
        """Units that have a record now, ascending."""
        return paths.committed_units(self.root)

    def lock(self) -> BinaryIO:
        """Be the only one who appends, until what is returned is closed.

        Raises:
            StoreBusy: another process is.
        """
        return posix.lock(self.root, "appending.lock")

    def claims(self) -> posix.UnitLocks:
        """Claims on units, so that others on this machine start with another; a context manager."""
        return posix.UnitLocks(self.root)

    def committed(self, unit: int) -> bool:
        """Whether ``unit`` has a record now."""
        return paths.record_path(self.root, unit).exists()

    def record(self, unit: int) -> Record:
        """What was committed for ``unit``.

        Raises:
            FileNotFoundError: it is not committed.
            ValueError: its record is damaged.
        """
        data = posix.read(self.root, paths.record_path(self.root, unit), MAX_RECORD_BYTES)
        return parse_record(data, unit, self.descriptor)

    def begin(self, unit: int) -> UnitWriter:
        """Start writing a unit; use it as a context manager.

        Raises:
            InvalidArgument: the store has no such unit.
        """
        if unit < 0 or not (self.descriptor.grows or unit < self.descriptor.units):
            raise InvalidArgument(f"there is no unit {unit}; the store has {self.descriptor.units}")
        return UnitWriter(self.root, self.descriptor, unit)


class UnitWriter:
    """Streams one unit to disk and commits it; without a commit, leaving the context leaves nothing.

    Memory: the rows of one chunk, and the batch being appended; all rows where columns are ragged and shards are Zarr.

    Attributes:
        unit: its number.
    """

    def __init__(self, root: Path, descriptor: Descriptor, unit: int) -> None:
        self._root = root
        self._descriptor = descriptor
        self.unit = unit
        self._most = descriptor.unit_rows if descriptor.grows else len(descriptor.unit_range(unit))
        self._columns = descriptor.columns()
        self._waiting: list[dict[str, NDArray[Any]]] = []
        self._rows_waiting = 0
        self._rows = 0
        self._keys = blake3()
        self._temporary, self._file = posix.create_temporary(root)
        self._sink = HashedFile(self._file)
        self._shard = open_writer(self._sink, descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._sink.drop()
        # What is dropped may fail to be dropped, on a disk that is full; what made us drop it is what to hear of.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows: (n, *shape) of every column, in the descriptor's dtypes; (entries, *shape) of ragged ones.

        Raises:
            InvalidArgument: columns, dtypes or shapes that are not the store's, or more rows than the unit has.
        """
        rows = self._checked(columns)
        if self._rows + rows > self._most:
            raise InvalidArgument(f"unit {self.unit} has {self._most} rows, not more")
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
    ) -> bool:
        """Make the unit durable and visible; False where another writer has committed it first.

        Args:
            extras: arrays that sealing needs (sums for the tail prior, dense rows), kept beside the shard.
            fidelity: by head, of a few rows; kept in the record.

        Raises:
            StoreError: rows are missing, the disk failed, or readers would refuse the record; nothing was committed.
        """
        descriptor = self._descriptor
        if self._rows != self._most and not (descriptor.grows and self._rows):
            raise StoreError(
                f"unit {self.unit} has {self._most} rows, but {self._rows} were given; nothing was committed"
            )
        if self._rows_waiting:
            self._flush(self._rows_waiting)
        chunks = self._shard.finish()
        footer = self._sink.cut()
        posix.sync_and_close(self._file)
        attempt = uuid.uuid4().hex
        posix.publish(
            self._root, self._temporary, paths.shard_path(self._root, self.unit, attempt, descriptor.shard_format)
        )
        record = Record(
            unit=self.unit,
            rows=self._rows,
            attempt=attempt,
            size=self._sink.size,
            blake3=self._sink.digest,
            chunks=tuple(chunks),
            footer=footer,
            keys=self._keys.hexdigest(),
            extras=self._write_extras(attempt, extras),
            fidelity=dict(fidelity or {}),
            descriptor=descriptor.digest,
            teacher=descriptor.teacher.digest or "",
            software=f"softlabels {__version__}",
        )
        try:
            data = canonical_json.to_bytes(record.to_json())
            parse_record(data, self.unit, descriptor)
        except ValueError as error:
            raise StoreError(
                f"readers would refuse the record of unit {self.unit}: {error}; nothing was committed; give the "
                "teacher a shorter digest, and a fidelity that is finite"
            ) from None
        return posix.put_if_absent(self._root, paths.record_path(self._root, self.unit), data)

    def _write_extras(self, attempt: str, extras: Mapping[str, NDArray[Any]] | None) -> tuple[int, str] | None:
        if not extras:
            return None
        data, digest = array_file.to_bytes(extras)
        posix.put_if_absent(self._root, paths.extras_path(self._root, self.unit, attempt), data)
        return len(data), digest

    def _checked(self, columns: Mapping[str, NDArray[Any]]) -> int:
        """Rows in ``columns``, once they are sure to be the store's."""
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
