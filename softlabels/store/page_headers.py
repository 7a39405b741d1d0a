"""Headers of Parquet pages: just enough of Thrift's compact protocol to see what a page declares before decoding it.

Source: the Parquet format's parquet.thrift (PageHeader, DataPageHeader) and Thrift's compact protocol specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

DATA_PAGE = 0
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DEEPEST = 4
"""Structs within structs in a page header: the data page's header and its statistics."""


@dataclass(frozen=True)
class PageHeader:
    """What a page says of itself.

    Attributes:
        kind: 0 for a data page.
        uncompressed: bytes when decompressed.
        compressed: bytes as they follow.
        crc: checksum of those; None where there is none.
        values: how many it holds.
    """

    kind: int
    uncompressed: int
    compressed: int
    crc: int | None
    values: int


def read_page_headers(data: bytes) -> Iterator[PageHeader]:
    """The headers of the pages in a column chunk, which they must fill.

    Raises:
        ValueError: damaged, or sizes that run past the end.
    """
    at = 0
    while at < len(data):
        fields, at = _read_struct(data, at, 0)
        inner = fields.get(5)
        values = inner.get(1) if isinstance(inner, dict) else None
        kind, uncompressed, compressed, crc = (fields.get(number) for number in (1, 2, 3, 4))
        if not isinstance(kind, int) or not isinstance(uncompressed, int) or not isinstance(compressed, int):
            raise ValueError("a page header without kind or sizes")  # noqa: TRY004  one error type
        if not isinstance(values, int) or values < 0 or uncompressed < 0 or not 0 <= compressed <= len(data) - at:
            raise ValueError("a page header with impossible sizes")
        at += compressed
        yield PageHeader(kind, uncompressed, compressed, crc if isinstance(crc, int) else None, values)


Value = int | bytes | dict[int, "Value"] | None


def _read_struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Value], int]:
    if depth > DEEPEST:
        raise ValueError("a page header nested too deeply")
    fields: dict[int, Value] = {}
    number = 0
    while True:
        head, at = _byte(data, at)
        if head == 0:
            return fields, at
        kind, step = head & 0x0F, head >> 4
        if step:
            number += step
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _read_value(data, at, kind, depth)


def _read_value(data: bytes, at: int, kind: int, depth: int) -> tuple[Value, int]:
    if kind in {TRUE, FALSE}:
        return int(kind == TRUE), at
    if kind in {I16, I32, I64}:
        return _zigzag(data, at)
    if kind == BINARY:
        size, at = _varint(data, at)
        if size > len(data) - at:
            raise ValueError("a page header is cut off")
        return data[at : at + size], at + size
    if kind == STRUCT:
        return _read_struct(data, at, depth + 1)
    raise ValueError(f"a page header with a field of kind {kind}")


def _byte(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise ValueError("a page header is cut off")
    return data[at], at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, at = _byte(data, at)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a page header with an endless number")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
