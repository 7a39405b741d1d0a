"""Records: the small JSON whose existence commits a unit, and everything needed to read and verify its shard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softlabels.fidelity import Fidelity
from softlabels.store.format import canonical_json, paths
from softlabels.store.format.array_file import LARGEST as LARGEST_ARRAYS
from softlabels.store.format.descriptor import MOST_ENCODED_BYTES, Descriptor
from softlabels.store.format.paths import ATTEMPT
from softlabels.store.storage import posix
from softlabels.store.storage.read_errors import MEND, refused

LIMIT = 64 * 2**10
"""Bytes a record may have."""

MOST_FIDELITY = 16 * 2**10
"""Of those, how many may say how faithful the labels are."""

HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was committed for one unit.

    Attributes:
        unit: which.
        rows: how many.
        attempt: names the shard file (32 hexadecimal digits).
        size: bytes of the shard.
        blake3: of the shard.
        chunks: byte ranges of the chunks, in order, from the first byte on.
        footer: byte range behind them, to the end.
        keys: BLAKE3 of the unit's keys, in order.
        extras: size and BLAKE3 of the unit's extras file; None where it has none.
        descriptor: digest of the store's descriptor.
        teacher: digest of the teacher that was run.
        software: what wrote it.
        fidelity: of a few rows, by head; those of heads that are no distribution are left out.
        digest: BLAKE3 of the record without this field; the identity of what was committed.
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
    digest: str = field(default="")

    def to_json(self) -> dict[str, Any]:
        """As the record file holds it, digest included."""
        body: dict[str, Any] = {
            "format": "softlabels-record",
            "version": 1,
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
        measured = {head: found.to_json() for head, found in self.fidelity.items()}
        # A record is small; very many heads and temperatures go without.
        if measured and len(canonical_json.to_bytes(measured)) <= MOST_FIDELITY:
            body["fidelity"] = measured
        return body | {"digest": canonical_json.digest(body)}


def parse_record(data: bytes, unit: int, descriptor: Descriptor) -> Record:
    """The record of ``unit``, checked against itself and against the descriptor.

    Raises:
        ValueError: says what is wrong.
    """
    value = canonical_json.parse(data, LIMIT)
    body = {name: part for name, part in value.items() if name != "digest"}
    if canonical_json.digest(body) != value.get("digest"):
        raise ValueError("its digest does not match its content")
    if value.get("format") != "softlabels-record" or value.get("version") != 1:
        raise ValueError(f"its format is {value.get('format')!r}, version {value.get('version')!r}")
    try:
        record = Record(
            unit=value["unit"],
            rows=value["rows"],
            attempt=value["attempt"],
            size=value["shard"]["size"],
            blake3=_hash(value["shard"]["blake3"]),
            chunks=tuple(_range(chunk, rows=chunk["rows"]) for chunk in value["chunks"]),
            footer=_range(value["footer"], rows=0),
            keys=_hash(value["keys"]),
            extras=None if value["extras"] is None else _extras(value["extras"]),
            descriptor=value["descriptor"],
            teacher=value["teacher"],
            software=value["software"],
            fidelity=_fidelity(value.get("fidelity", {}), descriptor),
            digest=value["digest"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__} {error} where a record says what was committed") from error
    _check_geometry(record, unit, descriptor)
    return record


def _check_geometry(record: Record, unit: int, descriptor: Descriptor) -> None:
    """Raise ValueError unless the record is of this unit of this store and its ranges tile the shard."""
    if type(record.rows) is not int or not 0 < record.rows <= descriptor.unit_rows:
        raise ValueError(f"it says it has {record.rows!r} rows; a unit has 1 to {descriptor.unit_rows}")
    expected = record.rows if descriptor.grows else len(descriptor.unit_range(unit))
    if type(record.unit) is not int or record.unit != unit or record.rows != expected:
        raise ValueError(f"it describes unit {record.unit!r} with {record.rows!r} rows, not unit {unit} of {expected}")
    if record.descriptor != descriptor.digest:
        raise ValueError("it belongs to another store (digest of the descriptor)")
    if not isinstance(record.attempt, str) or not ATTEMPT.fullmatch(record.attempt):
        raise ValueError(f"the attempt {record.attempt!r} cannot name a shard")
    if [chunk.rows for chunk in record.chunks] != descriptor.chunk_sizes(record.rows):
        raise ValueError("its chunks do not hold the rows they should")
    end = 0
    for piece in (*record.chunks, record.footer):
        if piece.offset != end or piece.size == 0:
            raise ValueError("its byte ranges have gaps or overlap")
        if piece.size > MOST_ENCODED_BYTES:
            raise ValueError(f"a chunk of {piece.size:,} bytes, where at most {MOST_ENCODED_BYTES:,} are allowed")
        end += piece.size
    if end != record.size or record.size > LARGEST:
        raise ValueError(f"its byte ranges end at {end:,}, its shard at {record.size!r}")


def _fidelity(value: Mapping[str, Any], descriptor: Descriptor) -> dict[str, Fidelity]:
    found = {head: Fidelity.from_json(part) for head, part in dict(value).items()}
    if not found.keys() <= descriptor.heads.keys():
        raise ValueError(f"a fidelity of heads {sorted(found)}, which are not the store's")
    return found


def _range(value: Mapping[str, Any], *, rows: int) -> Range:
    offset, size = value["offset"], value["size"]
    for number in (offset, size, rows):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= LARGEST:
            raise ValueError(f"{number!r} where a count of bytes or rows is expected")
    return Range(offset, size, _hash(value["blake3"]), rows)


def _extras(value: Mapping[str, Any]) -> tuple[int, str]:
    size = value["size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= LARGEST_ARRAYS:
        raise ValueError(f"{size!r} bytes of extras, where 1 to {LARGEST_ARRAYS:,} are allowed")
    return size, _hash(value["blake3"])


def _range_json(piece: Range) -> dict[str, Any]:
    return {"offset": piece.offset, "size": piece.size, "blake3": piece.blake3}


def _hash(value: object) -> str:
    if not isinstance(value, str) or not HASH.fullmatch(value):
        raise ValueError(f"{value!r} where a BLAKE3 is expected")
    return value


def read_record(root: Path, unit: int, descriptor: Descriptor) -> Record:
    """The record of a committed unit.

    Raises:
        StoreCorrupt: missing, damaged or of another store.
    """
    path = paths.record_path(root, unit)
    with refused(path, f"unit {unit} has no record; {MEND}"):
        return parse_record(posix.read(root, path, LIMIT), unit, descriptor)


LARGEST = 2**32 - 1
"""Bytes of a shard: a zip is kept to its plain form."""


@dataclass(frozen=True)
class Range:
    """A byte range of a shard, with its hash.

    Attributes:
        offset: of its first byte.
        size: in bytes.
        blake3: of those bytes, hexadecimal.
        rows: rows in it; 0 for the footer.
    """

    offset: int
    size: int
    blake3: str
    rows: int = 0
