"""The descriptor: what a store is, written once and never changed.

It holds no clock and no host, so several generators with one configuration write the same bytes, and its digest tells
two configurations apart. Which rows a unit and a chunk hold follows from it alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from softlabels import encodings
from softlabels.encodings import Column, Encoding
from softlabels.errors import InvalidArgument, StoreNotFound, StoreUnsupported
from softlabels.labels import Head
from softlabels.store.format import canonical_json, paths
from softlabels.store.storage import posix
from softlabels.store.storage.read_errors import FETCH, refused

FORMAT = "softlabels"
VERSION = 1
LIMIT = 2**20
"""Bytes a descriptor may have."""

MOST_CHUNKS = 256
"""Chunks of a unit, so that a record stays under 64 KiB."""
MOST_CHUNK_BYTES = 2**26
"""Bytes of the columns of one chunk together, decoded; a reader in 256 MB holds them and what it decodes them from."""
MOST_ENCODED_BYTES = MOST_CHUNK_BYTES * 5 // 4
"""Bytes of a chunk, or a footer, as stored."""
MOST_HEADS = 64
MOST_TEMPERATURES = 64
CHUNK_TARGET = 2**20
UNIT_TARGET = 64 * 2**20
MOST_CHUNK_ROWS = 4096
MOST_UNIT_ROWS = 16_384

CODEBOOK = "codebook"
KNOWN = (CODEBOOK,)
"""Features a store may require."""

LENGTH = "length"
"""The column of a ragged head that counts the positions of a row."""

OWN_COLUMNS = {"key": Column("uint8", (16,)), "view": Column("uint32")}
"""Columns of every store, before those of the heads."""


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """What a store is.

    Attributes:
        rows: how many rows it has when whole; None for one that grows as rows are appended.
        unit_rows: rows of a unit; the last may have fewer, and any of one that grows.
        chunk_rows: rows of a chunk; the last of a unit may have fewer.
        heads: outputs of the teacher, by name.
        teacher: ``spec`` and ``digest``.
        data: ``spec``, ``fingerprint`` and ``rows``; the last two None where rows are appended.
        shard_format: ``zarr`` or ``parquet``.
        codec: of its arrays, ``zstd`` (smaller) or ``lz4`` (faster to read).
        seed: of everything that is drawn.
    """

    rows: int | None
    unit_rows: int
    chunk_rows: int
    heads: Mapping[str, Head]
    teacher: Mapping[str, Any]
    data: Mapping[str, Any]
    shard_format: str = "zarr"
    codec: str = "zstd"
    seed: int = 0
    document: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """As it was read, with keys of later versions that do not matter here."""

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("unit_rows", self.unit_rows), ("chunk_rows", self.chunk_rows)):
            if type(value) is not int and not (name == "rows" and value is None):
                raise InvalidArgument(f"{name} must be a whole number, not {value!r}")
            if value is not None and not 0 < value < 2**48:
                raise InvalidArgument(f"{name} must be above 0 and below 2^48, not {value!r}")
        if self.chunk_rows > self.unit_rows:
            raise InvalidArgument(f"chunk_rows ({self.chunk_rows}) is above unit_rows ({self.unit_rows})")
        if self.unit_rows > self.chunk_rows * MOST_CHUNKS:
            raise InvalidArgument(f"a unit of {self.unit_rows} rows in chunks of {self.chunk_rows} has too many chunks")
        if self.shard_format not in {"zarr", "parquet"}:
            raise InvalidArgument(f"unknown shard format {self.shard_format!r}; it is zarr or parquet")
        if self.codec not in {"zstd", "lz4"}:
            raise InvalidArgument(f"unknown codec {self.codec!r}; it is zstd or lz4")
        if not 1 <= len(self.heads) <= MOST_HEADS:
            raise InvalidArgument(f"a store has 1 to {MOST_HEADS} heads, not {len(self.heads)}")
        self._check_names()
        self._check_sizes()
        self._check_codebooks()

    def _check_codebooks(self) -> None:
        for name, head in self.heads.items():
            if (self.encoding(name).priors > 1) != (head.codebook is not None):
                raise InvalidArgument(f"head {name!r}: {head.encoding} and codebook {head.codebook} do not go together")

    def _check_sizes(self) -> None:
        row = sum(column.entry_bytes for column in self.columns().values() if column.per is None)
        if row * self.chunk_rows > MOST_CHUNK_BYTES:
            raise InvalidArgument(
                f"{self.chunk_rows:,} rows of {row:,} bytes would make {row * self.chunk_rows:,} bytes a chunk, where "
                f"at most {MOST_CHUNK_BYTES:,} are allowed; use an encoding that keeps less, or fewer rows a chunk"
            )
        for name, head in self.heads.items():
            sums = 8 * head.classes * len(head.temperatures)
            if self.encoding(name).has_tail and sums > MOST_CHUNK_BYTES:
                raise InvalidArgument(
                    f"head {name!r}: tails of {head.classes:,} classes at {len(head.temperatures)} temperatures have "
                    f"{sums:,} bytes, where at most {MOST_CHUNK_BYTES:,} are kept; give fewer temperatures"
                )

    def _check_names(self) -> None:
        """A head's name is a path component of shards, so it is kept plain, and apart where case is not told apart."""
        for name in self.heads:
            if not name.isidentifier() or not name.isascii() or len(name) > 64 or name in OWN_COLUMNS:
                raise InvalidArgument(f"the head name {name!r} is not a plain one (letters, digits, underscore)")
        if len({name.lower() for name in self.heads}) < len(self.heads):
            raise InvalidArgument(f"head names differ in more than case, not {', '.join(self.heads)}; rename one")

    @property
    def grows(self) -> bool:
        """Whether rows are appended without their number being known."""
        return self.rows is None

    @property
    def units(self) -> int:
        """Number of units when whole.

        Raises:
            InvalidArgument: the store grows.
        """
        if self.rows is None:
            raise InvalidArgument("a store that grows has as many units as are committed")
        return -(-self.rows // self.unit_rows)

    def unit_range(self, unit: int) -> range:
        """Row numbers of ``unit``.

        Raises:
            InvalidArgument: the store grows, so the records say.
        """
        if self.rows is None:
            raise InvalidArgument("the rows of a unit that is appended are in its record")
        start = unit * self.unit_rows
        return range(start, min(start + self.unit_rows, self.rows))

    def chunk_sizes(self, rows: int) -> list[int]:
        """Rows of each chunk of a unit of ``rows`` rows."""
        return [min(self.chunk_rows, rows - start) for start in range(0, rows, self.chunk_rows)]

    def encoding(self, head: str) -> Encoding:
        """The encoding of a head."""
        return self._encodings[head]

    @cached_property
    def _encodings(self) -> dict[str, Encoding]:
        return {name: encodings.parse(head.encoding, classes=head.classes) for name, head in self.heads.items()}

    def columns(self) -> dict[str, Column]:
        """Columns of a shard by name, in the order they are written."""
        return self._columns

    @cached_property
    def _columns(self) -> dict[str, Column]:
        columns = dict(OWN_COLUMNS)
        for name, head in self.heads.items():
            outer = None
            if head.ragged:
                outer = f"{name}/{LENGTH}"
                columns[outer] = Column("uint32")
            for column, kind in self.encoding(name).columns(head).items():
                per = outer if kind.per is None else f"{name}/{kind.per}"
                columns[f"{name}/{column}"] = replace(kind, per=per)
        return columns

    def for_rows(self, rows: int) -> Descriptor:
        """This descriptor for another number of rows, all in one unit of chunks as they are."""
        chunk_rows = min(self.chunk_rows, rows)
        return replace(self, rows=rows, unit_rows=rows, chunk_rows=chunk_rows, document=None)

    def to_json(self) -> dict[str, Any]:
        """As ``softlabels.json`` holds it."""
        if self.document is not None:
            return dict(self.document)
        return {
            "format": FORMAT,
            "version": VERSION,
            "requires": [CODEBOOK] if any(head.codebook for head in self.heads.values()) else [],
            "rows": self.rows,
            "unit_rows": self.unit_rows,
            "chunk_rows": self.chunk_rows,
            "shard": {"format": self.shard_format, "codec": self.codec},
            "heads": {name: head.to_json() for name, head in self.heads.items()},
            "teacher": dict(self.teacher),
            "data": dict(self.data),
            "seed": self.seed,
        }

    @property
    def work(self) -> dict[str, Any]:
        """What is to be computed: the descriptor without the names people gave to teacher and data.

        The same teacher and data may be reached by other paths on another machine; their digests say they are the same.
        Without a digest the name is all that tells one teacher from another, and stays.
        """
        named = self.to_json()
        for part, digest in (("teacher", "digest"), ("data", "fingerprint")):
            if named[part][digest] is not None:
                named[part] = {name: value for name, value in named[part].items() if name != "spec"}
        return named

    @cached_property
    def digest(self) -> str:
        """Names this configuration: BLAKE3 of its canonical JSON."""
        return canonical_json.digest(self.to_json())


def parse_descriptor(data: bytes) -> Descriptor:
    """The descriptor in ``softlabels.json``.

    Raises:
        StoreUnsupported: a format version or required feature that is not known here.
        ValueError: not a descriptor; says why.
    """
    value = canonical_json.parse(data, LIMIT)
    if value.get("format") != FORMAT:
        raise ValueError(f"its format is {value.get('format')!r}, not {FORMAT!r}")
    requires = value.get("requires", [])
    if value.get("version") != VERSION or not isinstance(requires, list) or not all(one in KNOWN for one in requires):
        raise StoreUnsupported(
            f"the store has format version {value.get('version')!r} and requires {requires!r}; this "
            f"softlabels reads version {VERSION} and {', '.join(KNOWN)}. Upgrade softlabels"
        )
    try:
        heads = {name: _head(head) for name, head in value["heads"].items()}
        descriptor = Descriptor(
            rows=value["rows"],
            unit_rows=value["unit_rows"],
            chunk_rows=value["chunk_rows"],
            heads=heads,
            teacher=_about(value["teacher"], "digest"),
            data=_about(value["data"], "fingerprint"),
            shard_format=value["shard"]["format"],
            codec=value["shard"]["codec"],
            seed=value["seed"],
            document=value,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__} {error} where a store says what it holds") from error
    return descriptor


def _about(value: Any, digest: str) -> dict[str, Any]:
    """What a store says of its teacher or its data: a digest, and what people call it."""
    named, spec, rows = value[digest], value["spec"], value.get("rows")
    if not isinstance(spec, str) or (named is not None and not isinstance(named, str)):
        raise ValueError(f"the {digest} is {named!r}, named {spec!r}, where text is expected")
    if rows is not None and type(rows) is not int:
        raise ValueError(f"{rows!r} rows of data")
    return dict(value)


def _head(value: Mapping[str, Any]) -> Head:
    if type(value["classes"]) is not int or len(value["temperatures"]) > MOST_TEMPERATURES or len(value["shape"]) > 4:
        raise ValueError("a head with classes, temperatures or shape that cannot be")
    return Head(
        encoding=str(value["encoding"]),
        classes=value["classes"],
        kind=value["kind"],
        shape=tuple(value["shape"]),
        temperatures=tuple(float(t) for t in value["temperatures"]),
        tail=value["tail"],
        codebook=_digest(value.get("codebook")),
    )


def _digest(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        raise ValueError(f"{value!r} where a BLAKE3 is expected")
    return value


def default_geometry(row_bytes: float, rows: int | None) -> tuple[int, int]:
    """Rows of a unit and of a chunk, from the bytes of a row before compression.

    A chunk is the power of two of rows next below 1 MiB, at most 4,096; a unit the one next below 64 MiB, at most
    16,384, which bounds what an interruption can cost.
    """
    chunk = _power_below(CHUNK_TARGET / row_bytes, MOST_CHUNK_ROWS)
    unit = max(chunk, _power_below(UNIT_TARGET / row_bytes, MOST_UNIT_ROWS))
    return (unit, chunk) if rows is None else (min(unit, rows), min(chunk, rows))


def _power_below(value: float, most: int) -> int:
    return int(min(most, 2 ** max(0, int(value).bit_length() - 1)))


def read_descriptor(root: Path) -> Descriptor:
    """The descriptor of the store at ``root``.

    Raises:
        StoreNotFound: there is none.
        StoreCorrupt: it is damaged.
        StoreUnsupported: it needs a newer softlabels.
    """
    path = root / paths.DESCRIPTOR
    with refused(path, f"so {root} is no store of labels, or not whole; {FETCH}", StoreNotFound):
        return parse_descriptor(posix.read(root, path, LIMIT))


def open_root(path: str | Path) -> tuple[Path, Descriptor]:
    """The directory and descriptor of a store.

    Raises:
        StoreNotFound: no store there.
    """
    root = Path(path)
    return root, read_descriptor(root)
