"""The descriptor of a store: written once, never changed.

It holds no time and no host name, so several generators with one configuration write the same bytes, and its digest
tells two configurations apart. The rows of a unit and of a chunk follow from it alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from softlabels import encodings
from softlabels.encodings import Column, Encoding
from softlabels.errors import InvalidArgument, StoreUnsupported
from softlabels.labels import Head, HeadKind, TailModel
from softlabels.store.format import canonical_json
from softlabels.store.format.fields import Fields, check_integer, check_number
from softlabels.store.format.limits import (
    MAX_AXES,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_COLUMN_CHUNKS,
    MAX_DESCRIPTOR_BYTES,
    MAX_HEADS,
    MAX_POSITIONS,
    MAX_ROWS,
    MAX_TEMPERATURES,
    MAX_UNIT_CHUNKS,
    MAX_UNITS,
    decoded_bytes,
)
from softlabels.store.format.provenance import DataRecord, SubsetRecord, TeacherRecord
from softlabels.store.format.token_inputs import INPUTS, TokenInputs
from softlabels.store.format.view_record import VIEWS, ViewRecord
from softlabels.store.shards.registry import shard_format as format_of

FORMAT = "softlabels"
VERSION = 1

CHUNK_TARGET = 2**20
UNIT_TARGET = 64 * 2**20
DEFAULT_CHUNK_ROWS = 4096
DEFAULT_UNIT_ROWS = 16_384
"""Rows of a chunk and of a unit if rows are small; else as many as have the target's bytes."""

CODEBOOK = "codebook"
SUBSET_OF = "subset_of"
PACKED = "packed"
KNOWN = (CODEBOOK, INPUTS, VIEWS, PACKED)
"""Features a store may require."""

LENGTH = "length"
"""The column of a ragged head that counts the positions of a row."""

OWN_COLUMNS = {"key": Column("uint8", (16,)), "view": Column("uint32")}
"""Columns of every store, before those of the heads."""


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """The layout, heads and provenance of a store.

    Attributes:
        rows: Rows of the complete store; None if it grows as rows are appended.
        unit_rows: Rows of a unit; the last may have fewer, and any unit of a store that grows.
        chunk_rows: Rows of a chunk; the last of a unit may have fewer.
        heads: Outputs of the teacher by name.
        teacher: The teacher that labelled the data.
        data: The data.
        shard_format: ``zarr`` or ``parquet``.
        codec: Compression of the arrays: ``zstd`` (smaller) or ``lz4`` (faster to read).
        seed: Seed of every random draw, taken modulo 2^64.
        inputs: Token ids that the store holds beside the labels; None if it holds labels alone.
        subset_of: Snapshot of which the store is a part; None if it was labelled as a whole.
        views: Augmentation whose views the rows are labels of; None if rows are labels of inputs as they are.

    Raises:
        InvalidArgument: A value out of range, or a product of values that readers would refuse.

    Example:
        >>> descriptor = Descriptor(
        ...     rows=100, unit_rows=40, chunk_rows=10, heads={"logits": Head(encoding="topk:3:f16", classes=10)},
        ...     teacher=TeacherRecord(spec="run:teacher", digest=None),
        ...     data=DataRecord(spec="x.npz", fingerprint=None, rows=100),
        ... )
        >>> descriptor.units, descriptor.unit_range(2)
        (3, range(80, 100))
    """

    rows: int | None
    unit_rows: int
    chunk_rows: int
    heads: Mapping[str, Head]
    teacher: TeacherRecord
    data: DataRecord
    shard_format: str = "zarr"
    codec: str = "zstd"
    seed: int = 0
    inputs: TokenInputs | None = None
    subset_of: SubsetRecord | None = None
    views: ViewRecord | None = None
    document: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """The document that was read, with keys of later versions."""

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("unit_rows", self.unit_rows), ("chunk_rows", self.chunk_rows)):
            if not (name == "rows" and value is None) and (type(value) is not int or not 0 < value <= MAX_ROWS):
                raise InvalidArgument(f"{name}: got {value!r}; expected a whole number above 0 and below 2^48")
        format_of(self.shard_format)  # raises if there is none
        if self.codec not in {"zstd", "lz4"}:
            raise InvalidArgument(f"codec: got {self.codec!r}; expected zstd or lz4")
        if not 1 <= len(self.heads) <= MAX_HEADS:
            raise InvalidArgument(f"heads: got {len(self.heads)}; expected 1 to {MAX_HEADS}")
        self._check_names()
        self._check_sizes()
        self._check_chunks()
        self._check_codebooks()

    def _check_codebooks(self) -> None:
        for name, head in self.heads.items():
            if (self.encoding(name).priors > 1) != (head.codebook is not None):
                raise InvalidArgument(f"head {name!r}: {head.encoding} and codebook {head.codebook} do not go together")

    def _check_sizes(self) -> None:
        for name, head in self.heads.items():
            if len(head.shape) > MAX_AXES or math.prod(head.position_shape) > MAX_POSITIONS:
                raise InvalidArgument(
                    f"head {name!r}: got shape {head.shape}; expected at most {MAX_POSITIONS:,} positions"
                )
            if not 1 <= len(head.temperatures) <= MAX_TEMPERATURES:
                raise InvalidArgument(
                    f"head {name!r}: got {len(head.temperatures)} temperatures; expected 1 to {MAX_TEMPERATURES}"
                )
            sums = 8 * head.classes * len(head.temperatures)
            if self.encoding(name).has_tail and sums > MAX_CHUNK_BYTES:
                raise InvalidArgument(
                    f"head {name!r}: tails of {head.classes:,} classes at {len(head.temperatures)} temperatures have "
                    f"{sums:,} bytes; expected at most {MAX_CHUNK_BYTES:,}. Use fewer temperatures"
                )

    def _check_chunks(self) -> None:
        """Raise InvalidArgument unless chunks are small enough and few enough for readers."""
        plain = [column for column in self.columns().values() if column.per is None]
        row = sum(decoded_bytes(column, 1, self.shard_format) for column in plain)
        if row * self.chunk_rows > MAX_CHUNK_BYTES:
            raise InvalidArgument(
                f"chunk: got {self.chunk_rows:,} rows of {row:,} bytes decoded, {row * self.chunk_rows:,} in all; "
                f"expected at most {MAX_CHUNK_BYTES:,} bytes. Use an encoding that keeps less, or fewer rows per chunk"
            )
        if self.chunk_rows > self.unit_rows:
            raise InvalidArgument(f"chunk_rows: got {self.chunk_rows}; expected at most unit_rows, {self.unit_rows}")
        chunks = -(-self.unit_rows // self.chunk_rows)
        limit = min(MAX_UNIT_CHUNKS, MAX_COLUMN_CHUNKS // len(self.columns()))
        if chunks > limit:
            raise InvalidArgument(
                f"unit: got {chunks:,} chunks of {len(self.columns())} columns; expected at most {limit} chunks. Use "
                "fewer rows per unit, or more rows per chunk"
            )
        if self.rows is not None and (self.units > MAX_UNITS or self.units * chunks > MAX_CHUNKS):
            raise InvalidArgument(
                f"store: got {self.units:,} units of {chunks} chunks; expected at most {MAX_UNITS:,} units and "
                f"{MAX_CHUNKS:,} chunks. Use more rows per unit and per chunk, or several stores"
            )

    def _check_names(self) -> None:
        """Raise InvalidArgument for a head name that is unsafe in the path of an array, or ambiguous by its case."""
        for name in self.heads:
            if not name.isidentifier() or not name.isascii() or len(name) > 64 or name in OWN_COLUMNS:
                raise InvalidArgument(f"head name: got {name!r}; expected at most 64 letters, digits and underscores")
        if self.inputs is not None and INPUTS in {name.lower() for name in self.heads}:
            raise InvalidArgument(f"head name: got {INPUTS!r}, which the inputs of this store have. Rename the head")
        if len({name.lower() for name in self.heads}) < len(self.heads):
            raise InvalidArgument(f"head names: {', '.join(self.heads)} differ in case alone. Rename one")

    @property
    def grows(self) -> bool:
        """True if rows are appended and their number is not known."""
        return self.rows is None

    @property
    def units(self) -> int:
        """Units of the complete store.

        Raises:
            InvalidArgument: The store grows.
        """
        if self.rows is None:
            raise InvalidArgument("units: the store grows, so its number of units is the number of records")
        return -(-self.rows // self.unit_rows)

    def unit_range(self, unit: int) -> range:
        """Return the row numbers of ``unit``.

        Raises:
            InvalidArgument: The store grows, so only records know.
        """
        if self.rows is None:
            raise InvalidArgument("rows of a unit: the store grows, so only the record of the unit knows them")
        start = unit * self.unit_rows
        return range(start, min(start + self.unit_rows, self.rows))

    def chunk_sizes(self, rows: int) -> list[int]:
        """Return the rows of each chunk of a unit of ``rows`` rows."""
        return [min(self.chunk_rows, rows - start) for start in range(0, rows, self.chunk_rows)]

    def encoding(self, head: str) -> Encoding:
        """Return the encoding of a head."""
        return self._encodings[head]

    @cached_property
    def _encodings(self) -> dict[str, Encoding]:
        return {name: encodings.parse(head.encoding, classes=head.classes) for name, head in self.heads.items()}

    def columns(self) -> dict[str, Column]:
        """Return the columns of a shard by name, in the order of writing."""
        return self._columns

    @cached_property
    def _columns(self) -> dict[str, Column]:
        columns = OWN_COLUMNS | ({} if self.inputs is None else self.inputs.columns())
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
        """Return this descriptor for another number of rows in one unit, with chunks of the same size."""
        chunk_rows = min(self.chunk_rows, rows)
        return replace(self, rows=rows, unit_rows=rows, chunk_rows=chunk_rows, document=None)

    def to_json(self) -> dict[str, Any]:
        """Return the document in ``softlabels.json``."""
        if self.document is not None:
            return dict(self.document)
        features = {
            CODEBOOK: any(head.codebook for head in self.heads.values()),
            INPUTS: self.inputs is not None,
            VIEWS: self.views is not None,
            PACKED: any(column.packed for column in self.columns().values()),
        }
        document: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "requires": [name for name, is_used in features.items() if is_used],
            "rows": self.rows,
            "unit_rows": self.unit_rows,
            "chunk_rows": self.chunk_rows,
            "shard": {"format": self.shard_format, "codec": self.codec},
            "heads": {name: head.to_json() for name, head in self.heads.items()},
            "teacher": self.teacher.to_json(),
            "data": self.data.to_json(),
            "seed": self.seed,
        }
        for name, section in ((INPUTS, self.inputs), (SUBSET_OF, self.subset_of), (VIEWS, self.views)):
            document |= {} if section is None else {name: section.to_json()}
        return document

    @property
    def work(self) -> dict[str, Any]:
        """The work to do: the descriptor with teacher and data reduced to their identities.

        The same teacher and data may have other paths on another machine, and a later version may describe them in more
        detail. Their digests prove that they are the same.
        """
        views = {} if self.views is None else {VIEWS: self.views.identity}
        return self.to_json() | {"teacher": self.teacher.identity, "data": self.data.identity} | views

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of the canonical JSON, which identifies the configuration."""
        return canonical_json.digest(self.to_json())


def parse_descriptor(data: bytes) -> Descriptor:
    """Return the descriptor in the bytes of ``softlabels.json``.

    Raises:
        StoreUnsupported: The format version or a required feature is not known here.
        ValueError: The bytes are not a descriptor; says why.
    """
    value = canonical_json.parse(data, MAX_DESCRIPTOR_BYTES)
    if value.get("format") != FORMAT:
        raise ValueError(f"its format is {value.get('format')!r}, not {FORMAT!r}")
    requires = value.get("requires", [])
    if value.get("version") != VERSION or not isinstance(requires, list) or not all(name in KNOWN for name in requires):
        raise StoreUnsupported(
            f"the store has format version {value.get('version')!r} and requires {requires!r}; this "
            f"softlabels reads version {VERSION} and {', '.join(KNOWN)}. Upgrade softlabels"
        )
    fields = Fields(value)
    heads = fields.object("heads")
    if not 1 <= len(list(heads)) <= MAX_HEADS:
        raise ValueError(f"heads: got {len(list(heads))}; expected 1 to {MAX_HEADS}")
    shard = fields.object("shard")
    return Descriptor(
        rows=None if fields.get("rows") is None else fields.integer("rows", 1, MAX_ROWS),
        unit_rows=fields.integer("unit_rows", 1, MAX_ROWS),
        chunk_rows=fields.integer("chunk_rows", 1, MAX_ROWS),
        heads={name: _head(heads.object(name)) for name in heads},
        teacher=TeacherRecord.from_fields(fields.object("teacher")),
        data=DataRecord.from_fields(fields.object("data")),
        shard_format=shard.text("format"),
        codec=shard.text("codec"),
        seed=fields.integer("seed", -(2**63), 2**64 - 1),
        inputs=TokenInputs.from_fields(fields.object(INPUTS)) if INPUTS in requires else None,
        subset_of=None if fields.get(SUBSET_OF) is None else SubsetRecord.from_fields(fields.object(SUBSET_OF)),
        views=ViewRecord.from_fields(fields.object(VIEWS)) if VIEWS in requires else None,
        document=value,
    )


def _head(fields: Fields) -> Head:
    shape = fields.items("shape", MAX_AXES)
    temperatures = fields.items("temperatures", MAX_TEMPERATURES)
    return Head(
        encoding=fields.text("encoding"),
        classes=fields.integer("classes", 1, 2**31 - 1),
        kind=cast("HeadKind", fields.text("kind")),
        shape=(None,) if shape == [None] else tuple(check_integer(fields.path("shape"), n, 1, 2**20) for n in shape),
        temperatures=tuple(check_number(fields.path("temperatures"), value) for value in temperatures),
        tail=cast("TailModel", fields.text("tail")),
        codebook=fields.optional_hash("codebook"),
        downsample=1 if fields.get("downsample") is None else fields.integer("downsample", 2, 2**20 - 1),
    )


def default_geometry(row_bytes: float, rows: int | None) -> tuple[int, int]:
    """Return default rows of a unit and of a chunk.

    A chunk has the power of two of rows next below 1 MiB, at most 4,096. A unit has the power of two next below 64 MiB,
    at most 16,384, which bounds the work that an interruption can lose.

    Args:
        row_bytes: Mean bytes of a row before compression.
        rows: Rows of the store; None if it grows.
    """
    chunk = _power_below(CHUNK_TARGET / row_bytes, DEFAULT_CHUNK_ROWS)
    unit = max(chunk, _power_below(UNIT_TARGET / row_bytes, DEFAULT_UNIT_ROWS))
    return (unit, chunk) if rows is None else (min(unit, rows), min(chunk, rows))


def _power_below(value: float, limit: int) -> int:
    return int(min(limit, 2 ** max(0, int(value).bit_length() - 1)))
