"""Records: small JSON documents, each of which commits one unit and says how to read and verify its shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import StoreCorrupt
from softlabels.fidelity import Fidelity
from softlabels.store.format import canonical_json, paths, skipped_rows
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.fields import Fields
from softlabels.store.format.limits import (
    MAX_ARRAYS_BYTES,
    MAX_FIDELITY_BYTES,
    MAX_RECORD_BYTES,
    MAX_SHARD_BYTES,
    MAX_STORED_BYTES,
    MAX_UNIT_CHUNKS,
)
from softlabels.store.format.paths import ATTEMPT
from softlabels.store.format.skipped_rows import SkippedRow
from softlabels.store.storage.read_errors import REPAIR, read_errors
from softlabels.store.storage.storage import Storage


@dataclass(frozen=True)
class Range:
    """A byte range of a shard, with its hash.

    Attributes:
        offset: Offset of its first byte.
        size: Size in bytes.
        blake3: BLAKE3 of those bytes, hexadecimal.
        rows: Rows in it; 0 for the footer.
    """

    offset: int
    size: int
    blake3: str
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Record:
    """The commit of one unit.

    Attributes:
        unit: Number of the unit.
        rows: Rows of the unit that have labels.
        attempt: 32 hexadecimal digits, part of the names of shard and extras.
        size: Bytes of the shard.
        blake3: BLAKE3 of the shard.
        chunks: Byte ranges of the chunks, in order, from the first byte on.
        footer: Byte range behind them, to the end.
        keys: BLAKE3 of the unit's keys, in order.
        extras: Size and BLAKE3 of the unit's extras file; None without extras.
        descriptor: Digest of the store's descriptor.
        teacher: Digest of the teacher.
        software: Name and version of the writer.
        fidelity: Fidelity of a few rows, by head; absent for heads that are not distributions.
        skipped: Rows of the unit without labels, ascending.
        digest: BLAKE3 of the record without this field: the identity of the commit.
    """

    unit: int
    rows: int
    attempt: str
    size: int
    blake3: str
    chunks: tuple[Range, ...]
    footer: Range
    keys: str
    extras: tuple[int, str] | None
    descriptor: str
    teacher: str
    software: str
    fidelity: Mapping[str, Fidelity] = field(default_factory=dict)
    skipped: tuple[SkippedRow, ...] = ()
    digest: str = field(default="")

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """The number within the unit of each row that has labels, (rows,)."""
        return np.delete(np.arange(self.rows + len(self.skipped)), [entry.row for entry in self.skipped])

    def to_json(self) -> dict[str, Any]:
        """Return the document in the record's file, digest included."""
        body: dict[str, Any] = {
            "format": "softlabels-record",
            "version": 2 if self.skipped else 1,
            "unit": self.unit,
            "rows": self.rows,
            "attempt": self.attempt,
            "shard": {"size": self.size, "blake3": self.blake3},
            "chunks": [_range_json(chunk) | {"rows": chunk.rows} for chunk in self.chunks],
            "footer": _range_json(self.footer),
            "keys": self.keys,
            "extras": None if self.extras is None else {"size": self.extras[0], "blake3": self.extras[1]},
            "descriptor": self.descriptor,
            "teacher": self.teacher,
            "software": self.software,
        }
        fidelity = {head: measured.to_json() for head, measured in self.fidelity.items()}
        # Very many heads and temperatures would not fit into a record, so it goes without their fidelity.
        if fidelity and len(canonical_json.to_bytes(fidelity)) <= MAX_FIDELITY_BYTES:
            body["fidelity"] = fidelity
        if self.skipped:
            body["skipped"] = skipped_rows.to_json(self.skipped)
        return canonical_json.sign(body)


def parse_record(data: bytes, unit: int, descriptor: Descriptor) -> Record:
    """Return the record of ``unit``, checked against its own digest and against the descriptor.

    Raises:
        ValueError: The bytes are not the record of this unit of this store; says why.
    """
    value = canonical_json.parse_signed(data, MAX_RECORD_BYTES)
    if value.get("format") != "softlabels-record" or value.get("version") not in (1, 2):
        raise ValueError(f"its format is {value.get('format')!r}, version {value.get('version')!r}")
    fields = Fields(value)
    lacks_rows = value["version"] == 2
    shard = fields.object("shard")
    chunks = fields.items("chunks", MAX_UNIT_CHUNKS)
    record = Record(
        unit=fields.integer("unit", 0, 2**31),
        rows=fields.integer("rows", 0 if lacks_rows else 1, descriptor.unit_rows),
        attempt=fields.text("attempt"),
        size=shard.integer("size", 1, MAX_SHARD_BYTES),
        blake3=shard.hash("blake3"),
        chunks=tuple(_range(Fields(chunk, f"chunks[{index}]"), "rows") for index, chunk in enumerate(chunks)),
        footer=_range(fields.object("footer")),
        keys=fields.hash("keys"),
        extras=None if fields.get("extras") is None else _extras(fields.object("extras")),
        descriptor=fields.text("descriptor"),
        teacher=fields.text("teacher"),
        software=fields.text("software"),
        fidelity={} if fields.get("fidelity") is None else _fidelity(fields.object("fidelity"), descriptor),
        skipped=skipped_rows.from_fields(fields.object("skipped"), descriptor.unit_rows) if lacks_rows else (),
        digest=value["digest"],
    )
    _check_geometry(record, unit, descriptor)
    return record


def _check_geometry(record: Record, unit: int, descriptor: Descriptor) -> None:
    """Raise ValueError unless the record is of this unit of this store and its ranges tile the shard."""
    if record.descriptor != descriptor.digest:
        raise ValueError("it belongs to another store (digest of the descriptor)")
    _check_rows(record, unit, descriptor)
    if not ATTEMPT.fullmatch(record.attempt):
        raise ValueError(f"the attempt {record.attempt[:64]!r} cannot name a shard")
    if [chunk.rows for chunk in record.chunks] != descriptor.chunk_sizes(record.rows):
        raise ValueError("its chunks do not hold the rows they should")
    end = 0
    for extent in (*record.chunks, record.footer):
        if extent.offset != end or extent.size == 0:
            raise ValueError("its byte ranges have gaps or overlap")
        if extent.size > MAX_STORED_BYTES:
            raise ValueError(f"a chunk of {extent.size:,} bytes, where at most {MAX_STORED_BYTES:,} are allowed")
        end += extent.size
    if end != record.size:
        raise ValueError(f"its byte ranges end at {end:,}, its shard at {record.size:,}")


def _check_rows(record: Record, unit: int, descriptor: Descriptor) -> None:
    """Raise ValueError unless the record is of this unit and accounts for all of its rows."""
    if descriptor.grows and record.skipped:
        raise ValueError("it skips rows, which no store that grows does")
    expected = record.rows if descriptor.grows else len(descriptor.unit_range(unit))
    total = record.rows + len(record.skipped)
    if record.unit != unit or total != expected:
        raise ValueError(f"it describes unit {record.unit} with {total} rows, not unit {unit} of {expected}")
    if record.skipped and record.skipped[-1].row >= expected:
        raise ValueError(f"it skips row {record.skipped[-1].row} of a unit of {expected}")


def _fidelity(fields: Fields, descriptor: Descriptor) -> dict[str, Fidelity]:
    if not set(fields) <= descriptor.heads.keys():
        raise ValueError(f"a fidelity of heads {sorted(fields)[:8]}, which are not the store's")
    return {head: Fidelity.from_json(fields.get(head)) for head in fields}


def _range(fields: Fields, rows: str | None = None) -> Range:
    offset, size = (fields.integer(name, 0, MAX_SHARD_BYTES) for name in ("offset", "size"))
    return Range(offset, size, fields.hash("blake3"), 0 if rows is None else fields.integer(rows, 0, MAX_SHARD_BYTES))


def _extras(fields: Fields) -> tuple[int, str]:
    return fields.integer("size", 1, MAX_ARRAYS_BYTES), fields.hash("blake3")


def _range_json(extent: Range) -> dict[str, Any]:
    return {"offset": extent.offset, "size": extent.size, "blake3": extent.blake3}


def read_record(storage: Storage, unit: int, descriptor: Descriptor) -> Record:
    """Return the record of a committed unit.

    Raises:
        StoreCorrupt: The record is missing, damaged or of another store.
    """
    record = find_record(storage, unit, descriptor)
    if record is None:
        raise StoreCorrupt(f"{storage.locate(paths.record_path(unit))} is missing; unit {unit} has no record; {REPAIR}")
    return record


def find_record(storage: Storage, unit: int, descriptor: Descriptor) -> Record | None:
    """Return the record of a unit; None if the unit is not committed.

    Raises:
        StoreCorrupt: The record is damaged or of another store.
    """
    name = paths.record_path(unit)
    with read_errors(storage.locate(name), REPAIR):
        try:
            data = storage.read(name, MAX_RECORD_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return parse_record(data, unit, descriptor)
