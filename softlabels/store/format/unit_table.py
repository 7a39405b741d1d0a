"""The table of units of a snapshot: Parquet for everybody, decoded here by hand (docs/FORMAT.md, section 6).

A stranger's table must cost no more memory than its file says it may, and must not reach a parser that can crash the
process: pyarrow aborts on some footers and on some Arrow schemas within them. What sealing writes is plain enough to be
decoded in a few lines: zstd pages of 64-bit numbers, and of strings that all have one length. Opening a store of
100,000 units takes two columns of eight, and no pyarrow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import accumulate
from typing import Any

import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

from softlabels.store.format import thrift
from softlabels.store.format.record import Record

COLUMNS = {
    "unit": 0, "first_row": 0, "rows": 0, "attempt": 32, "size": 0, "blake3": 64, "record": 64, "keys": 64,
}  # fmt: skip
"""Columns and the length of their strings, 0 for 64-bit numbers; ``record`` is the record's digest."""
MOST_BYTES_A_UNIT = 512
"""Of the table's file, and some for its footer."""

MAGIC = b"PAR1"
PREFIX = 4
"""Bytes before a string, its length, and before the levels of a page."""
ZSTD, DATA_PAGE, PLAIN = 6, 0, 0
ROW_GROUPS, GROUP_COLUMNS, GROUP_ROWS, META = 4, 1, 3, 3
META_CODEC, META_COMPRESSED, META_OFFSET = 4, 7, 9
PAGE_KIND, PAGE_FULL, PAGE_SIZE, PAGE_DATA, PAGE_VALUES, PAGE_ENCODING = 1, 2, 3, 5, 1, 2


def limit(units: int) -> int:
    """Bytes the table of so many units may have."""
    return units * MOST_BYTES_A_UNIT + 2**16


def to_bytes(found: Sequence[Record]) -> bytes:
    """The table of the units with these records."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [record.rows for record in found]
    columns = {
        "unit": [record.unit for record in found],
        "first_row": list(accumulate([0, *rows[:-1]])),
        "rows": rows,
        "attempt": [record.attempt for record in found],
        "size": [record.size for record in found],
        "blake3": [record.blake3 for record in found],
        "record": [record.digest for record in found],
        "keys": [record.keys for record in found],
    }
    schema = pa.schema([(name, pa.string() if width else pa.int64()) for name, width in COLUMNS.items()])
    buffer = BytesIO()
    pq.write_table(
        pa.table(columns, schema=schema), buffer, compression="zstd", use_dictionary=False, write_page_checksum=True,
        write_statistics=False, store_schema=False,
    )  # fmt: skip
    return buffer.getvalue()


def parse(data: bytes, units: int, wanted: Sequence[str] = tuple(COLUMNS)) -> dict[str, NDArray[Any]]:
    """Columns of a table of ``units`` units: int64, or (units,) fixed-width bytes.

    Args:
        data: the file, whose hash has been checked.
        units: how many it must list.
        wanted: names of columns.

    Raises:
        ValueError: not what sealing writes.
    """
    if data[:4] != MAGIC or data[-4:] != MAGIC:
        raise ValueError("it is no Parquet")
    size = int(struct.unpack("<I", data[-8:-4])[0])
    if size > len(data) - 12:
        raise ValueError("its footer is cut off")
    groups = thrift.structs(thrift.read_struct(data[-8 - size : -8])[0], ROW_GROUPS)
    if sum(thrift.number(group, GROUP_ROWS) for group in groups) != units:
        raise ValueError("it does not list the store's units")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    for group in groups:
        chunks = thrift.structs(group, GROUP_COLUMNS)
        if len(chunks) != len(COLUMNS):
            raise ValueError(f"it has {len(chunks)} columns, not {len(COLUMNS)}")
        for (name, width), chunk in zip(COLUMNS.items(), chunks, strict=True):
            if name in parts:
                parts[name] += _column(data, thrift.struct(chunk, META), width, thrift.number(group, GROUP_ROWS))
    return {name: np.concatenate(found) for name, found in parts.items()}


def _column(data: bytes, meta: thrift.Struct, width: int, rows: int) -> list[NDArray[Any]]:
    """The values of a column chunk, page by page."""
    start, size = thrift.number(meta, META_OFFSET), thrift.number(meta, META_COMPRESSED)
    if thrift.number(meta, META_CODEC) != ZSTD or not 0 < start <= start + size <= len(data) or rows < 0:
        raise ValueError("a column that is not stored as sealing does")
    found = list(_pages(data[start : start + size], PREFIX + width if width else 8, rows))
    if sum(map(len, found)) != rows:
        raise ValueError("a column with other rows than it says")
    return [_strings(part, width) if width else part.view("<i8").reshape(-1) for part in found]


def _pages(data: bytes, item: int, most: int) -> Iterator[NDArray[np.uint8]]:
    """The values of each page, (n, item) bytes."""
    at = 0
    while at < len(data):
        page, at = thrift.read_struct(data, at)
        about = thrift.struct(page, PAGE_DATA)
        count, full, size = (
            thrift.number(about, PAGE_VALUES),
            thrift.number(page, PAGE_FULL),
            thrift.number(page, PAGE_SIZE),
        )
        # A bit a value says whether it is there; all are.
        room = range(count * item + PREFIX + 1, count * item + PREFIX + count // 8 + 32)
        if (
            thrift.number(page, PAGE_KIND) != DATA_PAGE
            or thrift.number(about, PAGE_ENCODING) != PLAIN
            or not 0 < count <= most
            or full not in room
            or not 0 < size <= len(data) - at
        ):
            raise ValueError("a page that is not what sealing writes")
        yield _inflate(data[at : at + size], full)[full - count * item :].reshape(count, item)
        most -= count
        at += size


def _inflate(data: bytes, size: int) -> NDArray[np.uint8]:
    """Exactly ``size`` bytes, decompressed."""
    out = np.zeros(size, np.uint8)
    try:
        zstd.decompress(data, out)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"a page is damaged: {error}") from None
    return out


def _strings(items: NDArray[np.uint8], width: int) -> NDArray[Any]:
    """Strings of one length, as fixed-width bytes."""
    if (items[:, :PREFIX].copy().view("<u4") != width).any():
        raise ValueError(f"strings of other lengths than {width}")
    return np.ascontiguousarray(items[:, PREFIX:]).view(f"S{width}").reshape(-1)
