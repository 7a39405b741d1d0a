"""Thrift structs that can be changed and written back, and Parquet shards with them: what a forger of headers needs.

The reader of the library forgets which kind a number had; this one keeps it, so that what was not changed comes back
byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from softlabels.store.shards.parquet_shard import MAGIC, TRAILER

TRUE, FALSE, I32, I64, BINARY, LIST, STRUCT = 1, 2, 5, 6, 8, 9, 12


class Field(NamedTuple):
    """A value with its kind; of a list the kind of its items too."""

    kind: int
    value: Any
    items: int = 0


Struct = dict[int, Field]


def read(data: bytes, offset: int = 0) -> tuple[Struct, int]:
    """Fields of a struct by number, and where it ends."""
    fields: Struct = {}
    number = 0
    while head := data[offset]:
        kind, number, offset = head & 15, number + (head >> 4), offset + 1
        fields[number], offset = _read(data, offset, kind)
    return fields, offset + 1


def _read(data: bytes, offset: int, kind: int) -> tuple[Field, int]:
    if kind in {TRUE, FALSE}:
        return Field(kind, None), offset
    if kind == STRUCT:
        inner, offset = read(data, offset)
        return Field(kind, inner), offset
    if kind == LIST:
        count, items, offset = data[offset] >> 4, data[offset] & 15, offset + 1
        if count == 15:
            count, offset = _varint(data, offset)
        result = []
        for _ in range(count):
            one, offset = _read(data, offset, items)
            result.append(one.value)
        return Field(kind, result, items), offset
    value, offset = _varint(data, offset)
    if kind == BINARY:
        return Field(kind, data[offset : offset + value]), offset + value
    return Field(kind, (value >> 1) ^ -(value & 1)), offset


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[offset] & 127) << shift
        offset, shift = offset + 1, shift + 7
        if data[offset - 1] < 128:
            return value, offset


def write(fields: Struct) -> bytes:
    """The bytes of a struct."""
    out, last = bytearray(), 0
    for number, field in sorted(fields.items()):
        out.append((number - last) << 4 | field.kind)
        out += _write(field)
        last = number
    return bytes(out) + b"\0"


def _write(field: Field) -> bytes:
    if field.kind in {TRUE, FALSE}:
        return b""
    if field.kind == STRUCT:
        return write(field.value)
    if field.kind == LIST:
        count = len(field.value)
        head = bytes([count << 4 | field.items]) if count < 15 else bytes([240 | field.items]) + _number(count)
        return head + b"".join(_write(Field(field.items, one)) for one in field.value)
    if field.kind == BINARY:
        return _number(len(field.value)) + bytes(field.value)
    return _number(field.value << 1 if field.value >= 0 else (-field.value << 1) - 1)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def footer(change: Callable[[Struct], object]) -> Callable[[bytes], bytes]:
    """A Parquet footer with its struct changed."""

    def changed(segment: bytes) -> bytes:
        fields, end = read(segment)
        assert end == len(segment) - TRAILER
        assert write(fields) == segment[:end], "it comes back as it was"
        change(fields)
        body = write(fields)
        return body + len(body).to_bytes(4, "little") + MAGIC

    return changed


def column(fields: Struct, number: int, group: int = 0) -> Struct:
    """Return the metadata of a column chunk in a footer."""
    described: Struct = fields[4].value[group][1].value[number][3].value
    return described


def with_column(
    number: int, make: Callable[[bytes], bytes]
) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    """Changes of the first chunk and of the footer that put other pages into a column; sizes and offsets follow.

    Args:
        number: of the column.
        make: from the column's bytes in the first chunk, other ones.
    """
    grown: list[tuple[int, int]] = []

    def chunk(segment: bytes) -> bytes:
        offset = len(MAGIC)
        for _ in range(number):  # pages follow one another without gaps
            offset += _size(segment, offset)
        size = _size(segment, offset)
        new = make(segment[offset : offset + size])
        grown.append((offset, len(new) - size))
        return segment[:offset] + new + segment[offset + size :]

    def described(fields: Struct) -> None:
        ((offset, by),) = grown
        for group in fields[4].value:
            for one in group[1].value:
                meta = one[3].value
                if meta[9].value == offset:
                    meta[7] = Field(I64, meta[7].value + by)
                if meta[9].value > offset:
                    meta[9] = Field(I64, meta[9].value + by)

    return chunk, footer(described)


def page(change: Callable[[Struct], object]) -> Callable[[bytes], bytes]:
    """A column chunk of one page with its header changed."""

    def changed(segment: bytes) -> bytes:
        fields, end = read(segment)
        assert write(fields) == segment[:end], "it comes back as it was"
        change(fields)
        return write(fields) + segment[end:]

    return changed


def _size(segment: bytes, offset: int) -> int:
    """Bytes of the page at ``at``, header included; the store's small columns have one."""
    fields, end = read(segment, offset)
    return end - offset + int(fields[3].value)
