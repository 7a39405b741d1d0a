"""The table of units of a snapshot: a Parquet file for everybody, decoded here by hand (docs/FORMAT.md, section 6).

The table is untrusted. It must cost no more memory than its number of units allows, and must not reach a parser that
can crash the process: pyarrow aborts on some footers and on some Arrow schemas within them. Sealing writes zstd pages
of 64-bit numbers and of strings of one length, which a few lines decode. Opening a store of 100,000 units takes two of
the eight columns, and no pyarrow. docs/adr/0017-the-table-of-units-stays-parquet.md weighs the alternatives.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

from softlabels.columns import to_arrow
from softlabels.store.format import thrift

COLUMNS = {
    "unit": 0, "first_row": 0, "rows": 0, "attempt": 32, "size": 0, "blake3": 64, "record": 64, "keys": 64,
}  # fmt: skip
"""Columns and the length of their strings, 0 for 64-bit numbers; ``record`` is the record's digest."""
MAX_UNIT_BYTES = 512
"""Bytes of the file per unit, in addition to its footer."""
MAX_FOOTER_VALUES = 2**13
MAX_PAGE_VALUES = 64
"""Values in a footer, and in the header of a page."""
MAX_PAGE_BYTES = 2**24
"""Bytes of a page when decompressed; sealing writes 1 MiB."""

MAGIC = b"PAR1"
PREFIX = 4
"""Bytes before a string, its length, and before the levels of a page."""
ZSTD, DATA_PAGE, PLAIN = 6, 0, 0
ROW_GROUPS, GROUP_COLUMNS, GROUP_ROWS, META = 4, 1, 3, 3
META_CODEC, META_COMPRESSED, META_OFFSET = 4, 7, 9
PAGE_KIND, PAGE_FULL, PAGE_SIZE, PAGE_DATA, PAGE_VALUES, PAGE_ENCODING = 1, 2, 3, 5, 1, 2


def limit(units: int) -> int:
    """Return the bytes that the table of so many units may have."""
    return units * MAX_UNIT_BYTES + 2**16


def to_bytes(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the table of units, in order from unit 0.

    Args:
        columns: The columns by name, int64 or bytes of fixed width, (units,) each; see COLUMNS.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string() if width else pa.int64()) for name, width in COLUMNS.items()])
    arrays = [_to_arrow(columns[name], width) for name, width in COLUMNS.items()]
    buffer = BytesIO()
    pq.write_table(
        pa.table(arrays, schema=schema), buffer, compression="zstd", use_dictionary=False, write_page_checksum=True,
        write_statistics=False, store_schema=False,
    )  # fmt: skip
    return buffer.getvalue()


def _to_arrow(column: NDArray[Any], width: int) -> Any:
    """Return a column as an Arrow array over its memory."""
    import pyarrow as pa

    if not width:
        return to_arrow(column)
    column = np.ascontiguousarray(column)
    offsets = np.arange(len(column) + 1, dtype=np.int32) * np.int32(column.dtype.itemsize)
    return pa.StringArray.from_buffers(len(column), pa.py_buffer(offsets), pa.py_buffer(column.view(np.uint8)))


def parse(data: bytes, units: int, columns: Sequence[str] = tuple(COLUMNS)) -> dict[str, NDArray[Any]]:
    """Return columns of a table: int64, or fixed-width bytes, (units,) each.

    Args:
        data: Bytes of the file, whose hash has been checked.
        units: Number of units that it must list, at most MAX_UNITS.
        columns: Names of the columns.

    Raises:
        ValueError: The bytes are not a table that sealing writes.
    """
    if data[:4] != MAGIC or data[-4:] != MAGIC:
        raise ValueError("it is no Parquet")
    size = int(struct.unpack("<I", data[-8:-4])[0])
    if size > len(data) - 12:
        raise ValueError("its footer is cut off")
    footer, _ = thrift.read_struct(data[-8 - size : -8], 0, MAX_FOOTER_VALUES)
    groups = thrift.structs(footer, ROW_GROUPS)
    counts = [thrift.number(group, GROUP_ROWS) for group in groups]
    if sum(counts) != units or min(counts, default=0) < 0:
        raise ValueError("it does not list the store's units")
    result: dict[str, NDArray[Any]] = {
        name: np.empty(units, f"S{COLUMNS[name]}" if COLUMNS[name] else "<i8") for name in columns
    }
    start = 0
    for group, count in zip(groups, counts, strict=True):
        chunks = thrift.structs(group, GROUP_COLUMNS)
        if len(chunks) != len(COLUMNS):
            raise ValueError(f"it has {len(chunks)} columns, not {len(COLUMNS)}")
        for (name, width), chunk in zip(COLUMNS.items(), chunks, strict=True):
            if name in result:
                _read_column(data, thrift.struct(chunk, META), width, result[name][start : start + count])
        start += count
    return result


def _read_column(data: bytes, meta: thrift.Struct, width: int, out: NDArray[Any]) -> None:
    """Decode a column chunk into ``out``, page by page."""
    start, size = thrift.number(meta, META_OFFSET), thrift.number(meta, META_COMPRESSED)
    if thrift.number(meta, META_CODEC) != ZSTD or not 0 < start <= start + size <= len(data):
        raise ValueError("a column that is not stored as sealing does")
    done = 0
    for values in _pages(memoryview(data)[start : start + size], PREFIX + width if width else 8, len(out)):
        out[done : done + len(values)] = _strings(values, width) if width else values.view("<i8").reshape(-1)
        done += len(values)
    if done != len(out):
        raise ValueError("a column with other rows than it says")


def _pages(data: memoryview, item: int, limit: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the values of each page, (n, item) bytes; at most ``limit`` values in all."""
    offset = 0
    while offset < len(data):
        page, offset = thrift.read_struct(data, offset, MAX_PAGE_VALUES)
        header = thrift.struct(page, PAGE_DATA)
        count = thrift.number(header, PAGE_VALUES)
        full, size = thrift.number(page, PAGE_FULL), thrift.number(page, PAGE_SIZE)
        # A bit a value says that it is not null, in runs or packed.
        expected = range(count * item + PREFIX + 1, count * item + PREFIX + count // 8 + 32)
        if (
            thrift.number(page, PAGE_KIND) != DATA_PAGE
            or thrift.number(header, PAGE_ENCODING) != PLAIN
            or not 0 < count <= limit
            or full not in expected
            or full > MAX_PAGE_BYTES
            or not 0 < size <= len(data) - offset
        ):
            raise ValueError("a page that is not what sealing writes")
        yield _inflate(data[offset : offset + size], full)[full - count * item :].reshape(count, item)
        limit -= count
        offset += size


def _inflate(data: memoryview, size: int) -> NDArray[np.uint8]:
    """Return exactly ``size`` decompressed bytes."""
    out = np.zeros(size, np.uint8)
    try:
        zstd.decompress(data, out)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"a page is damaged: {error}") from None
    return out


def _strings(items: NDArray[np.uint8], width: int) -> NDArray[Any]:
    """Return strings of one length as fixed-width bytes."""
    if (items[:, :PREFIX].copy().view("<u4") != width).any():
        raise ValueError(f"strings of other lengths than {width}")
    return np.ascontiguousarray(items[:, PREFIX:]).view(f"S{width}").reshape(-1)
