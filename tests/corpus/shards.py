"""Shards whose hashes fit and whose content no writer leaves: zip members, blosc arrays, Parquet footers and pages."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softlabels.store.shards import zarr_shard
from tests.corpus.cases import _blake3, case
from tests.corpus.forging import forge, shard_of
from tests.corpus.headers import BINARY, I32, I64, LIST, STRUCT, Field, Struct, column, footer, page, with_column

# Zarr: members of a zip, arrays in them.

KEY = b"key/c/0/0"
BODY = zarr_shard.LOCAL_HEADER.size + len(KEY)
"""Where the first member's array begins, in a chunk."""


def first_array(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A chunk whose first member holds another array, with sizes that fit."""

    def changed(segment: bytes) -> bytes:
        fields = list(zarr_shard.LOCAL_HEADER.unpack_from(segment))
        body = change(segment[BODY : BODY + fields[7]])
        rest = segment[BODY + fields[7] :]
        fields[7] = fields[8] = len(body)
        return zarr_shard.LOCAL_HEADER.pack(*fields) + KEY + body + rest

    return changed


ZARR: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a member more": (
        lambda segment: segment + segment[segment.rindex(zarr_shard.LOCAL_MAGIC) :],
        "more than the store's",
    ),
    "a piece of a member more": (lambda segment: segment + zarr_shard.LOCAL_MAGIC, "more than the store's"),
    "a piece of the last member": (
        lambda segment: segment[: segment.rindex(zarr_shard.LOCAL_MAGIC) + 4],
        "a zip member is cut off",
    ),
    "a member that is none": (lambda segment: b"PK\x05\x06" + segment[4:], "not a plain stored zip member"),
    "a deflated member": (lambda segment: segment[:8] + b"\x08" + segment[9:], "not a plain stored zip member"),
    "a member past the end": (
        lambda segment: segment[:18] + struct.pack("<II", 2**30, 2**30) + segment[26:],
        "not a plain stored zip member",
    ),
    "an array that is nearly nothing": (first_array(lambda body: body[:19]), "a compressed array is cut off"),
    "an array that is no blosc": (
        first_array(lambda body: b"\xff" + body[1:]),
        "a compressed array is damaged",
    ),
    "an array of another size": (first_array(lambda body: body + b"\0"), "a compressed array declares"),
}
for _name, (_change, _says) in ZARR.items():

    @case("a chunk that cannot be", variant=_name, says=_says)
    def _(root: Path, change: Callable[[bytes], bytes] = _change) -> None:
        forge(root, chunk=change)


# Parquet: what the footer says.


def with_schema(fields: Struct) -> None:
    """Arrow IPC, which has crashed processes."""
    fields[5] = Field(LIST, [{1: Field(BINARY, b"ARROW:schema"), 2: Field(BINARY, b"/////w==")}], STRUCT)


def with_rows(fields: Struct) -> None:
    fields[4].value[0][3] = Field(I64, 5)


def with_meta(number: int, field: Field) -> Callable[[Struct], None]:
    """A field of the first column of the first chunk."""
    return lambda fields: column(fields, 0).update({number: field})


FOOTERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "an Arrow schema": (footer(with_schema), "an Arrow schema"),
    "a row group fewer": (footer(lambda fields: fields[4].value.pop()), "other chunks than the store has"),
    "something behind it": (lambda segment: segment[:-8] + b"\0" + segment[-8:], "other chunks than the store has"),
    "another magic": (lambda segment: segment[:-4] + b"PARE", "the footer is damaged"),
    "another column": (lambda segment: segment.replace(b"logits/tail", b"logits/tall"), "other columns than the store"),
    "other rows": (footer(with_rows), "other rows or columns than its chunk"),
    "a column fewer": (
        footer(lambda fields: fields[4].value[0][1].value.pop()),
        "other rows or columns than its chunk",
    ),
    "another codec": (footer(with_meta(4, Field(I32, 1))), "not stored as a store does"),
    "an encoding by dictionary": (footer(with_meta(2, Field(LIST, [8], I32))), "not stored as a store does"),
    "a page of a dictionary": (footer(with_meta(11, Field(I64, 4))), "not stored as a store does"),
    "a page elsewhere": (footer(with_meta(9, Field(I64, 0))), "not stored as a store does"),
    "a size of nothing": (footer(with_meta(7, Field(I64, 0))), "not stored as a store does"),
}
for _name, (_change, _says) in FOOTERS.items():

    @case("a footer that cannot be", variant=_name, kinds=("topk-parquet",), says=_says)
    def _(root: Path, change: Callable[[bytes], bytes] = _change) -> None:
        forge(root, footer=change)


@case(
    "a footer that cannot be", variant="a chunk that begins later", kinds=("topk-parquet",), says="not fill its chunk"
)
def _(root: Path) -> None:
    """Ranges of the record that tile the shard, but not where its row groups meet."""

    def moved(value: dict[str, Any]) -> None:
        data = shard_of(root).read_bytes()
        first, second = value["chunks"]
        for segment, offset, size in ((first, 0, first["size"] + 4), (second, first["size"] + 4, second["size"] - 4)):
            segment.update(offset=offset, size=size, blake3=_blake3(data[offset : offset + size]))

    forge(root, record=moved)


# Parquet: what pages say and hold.


def pages(kind: str, name: str, make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A shard with other pages in a column of its first chunk."""

    def spoil(root: Path) -> None:
        names = pq.ParquetFile(shard_of(root)).schema_arrow.names
        chunk, described = with_column(names.index(name), make)
        forge(root, chunk=chunk, footer=described)

    return spoil


def holding(values: list[Any], kind: pa.DataType, name: str) -> Callable[[bytes], bytes]:
    """The pages that pyarrow writes for such a column."""

    def make(_: bytes) -> bytes:
        out = io.BytesIO()
        schema = pa.schema([pa.field(name, kind, nullable=False)])
        pq.write_table(
            pa.table([pa.array(values, kind)], schema=schema), out, compression="zstd", use_dictionary=False,
            write_statistics=False, write_page_checksum=True, store_schema=False,
        )  # fmt: skip
        result = pq.ParquetFile(out).metadata.row_group(0).column(0)
        start = result.data_page_offset
        return out.getvalue()[start : start + result.total_compressed_size]

    return make


def lists(kind: pa.DataType) -> pa.DataType:
    """Of values that cannot be null."""
    return pa.list_(pa.field("element", kind, nullable=False))


def said(number: int, value: int) -> Callable[[bytes], bytes]:
    """A page whose header says something else."""
    return page(lambda fields: fields.update({number: Field(I32, value)}))


def counted(value: int) -> Callable[[bytes], bytes]:
    """A page whose header says it has so many values."""
    return page(lambda fields: fields[5].value.update({1: Field(I32, value)}))


IDS = lists(pa.uint16())
PAGES: dict[str, tuple[str, str, Callable[[bytes], bytes], str]] = {
    "no checksum": ("topk", "key", page(lambda fields: fields.pop(4)), "a page without checksum"),
    "a page of a dictionary": ("topk", "key", said(1, 2), "of a kind that no store holds"),
    "2 GiB": ("topk", "logits/tail", said(2, 2**31 - 1), "a page declares 2,147,483,647 bytes"),
    "a size below 0": ("topk", "logits/tail", said(2, -1), "a page declares -1 bytes"),
    "values below 0": ("topk", "logits/tail", counted(-1), "for -1 values"),
    "more values": ("topk", "logits/tail", counted(5), "pages with 5 values where 4 are expected"),
    "fewer rows": ("topk", "key", holding([b"0123456789abcdef"] * 3, pa.binary(16), "key"), "with 3 values where 4"),
    "lists of other lengths": (
        "topk", "logits/ids", holding([[1, 2], [3, 4, 5, 6], [7, 8, 9], [10, 11, 12]], IDS, "logits/ids"),
        "lists of other lengths",
    ),
    "fewer lists": (
        "topk", "logits/ids", holding([[1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11, 12]], IDS, "logits/ids"), "logits/ids",
    ),
    "more lists": (
        "topk", "logits/ids", holding([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11], [12]], IDS, "logits/ids"),
        "logits/ids",
    ),
    "lengths of 2^32": (
        "ragged", "logits/length", holding([2**32 - 1, 0, 0, 0], pa.uint32(), "logits/length"), "declares more than",
    ),
}  # fmt: skip
for _name, (_kind, _column, _make, _says) in PAGES.items():
    case("pages that cannot be", variant=_name, kinds=(f"{_kind}-parquet",), says=_says)(pages(_kind, _column, _make))
