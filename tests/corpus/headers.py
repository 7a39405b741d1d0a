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


def read(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """Fields of a struct by number, and where it ends."""
    fields: Struct = {}
    number = 0
    while head := data[at]:
        kind, number, at = head & 15, number + (head >> 4), at + 1
        fields[number], at = _read(data, at, kind)
    return fields, at + 1


def _read(data: bytes, at: int, kind: int) -> tuple[Field, int]:
    if kind in {TRUE, FALSE}:
        return Field(kind, None), at
    if kind == STRUCT:
        inner, at = read(data, at)
        return Field(kind, inner), at
    if kind == LIST:
        count, items, at = data[at] >> 4, data[at] & 15, at + 1
        if count == 15:
            count, at = _varint(data, at)
        found = []
        for _ in range(count):
            one, at = _read(data, at, items)
            found.append(one.value)
        return Field(kind, found, items), at
    value, at = _varint(data, at)
    if kind == BINARY:
        return Field(kind, data[at : at + value]), at + value
    return Field(kind, (value >> 1) ^ -(value & 1)), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


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

    def changed(piece: bytes) -> bytes:
        fields, end = read(piece)
        assert end == len(piece) - TRAILER
        assert write(fields) == piece[:end], "it comes back as it was"
        change(fields)
        body = write(fields)
        return body + len(body).to_bytes(4, "little") + MAGIC

    return changed


def column(fields: Struct, number: int, group: int = 0) -> Struct:
    """What a footer says of a column chunk."""
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

    def chunk(piece: bytes) -> bytes:
        at = len(MAGIC)
        for _ in range(number):  # pages follow one another without gaps
            at += _size(piece, at)
        size = _size(piece, at)
        new = make(piece[at : at + size])
        grown.append((at, len(new) - size))
        return piece[:at] + new + piece[at + size :]

    def described(fields: Struct) -> None:
        ((at, by),) = grown
        for group in fields[4].value:
            for one in group[1].value:
                meta = one[3].value
                if meta[9].value == at:
                    meta[7] = Field(I64, meta[7].value + by)
                if meta[9].value > at:
                    meta[9] = Field(I64, meta[9].value + by)

    return chunk, footer(described)


def page(change: Callable[[Struct], object]) -> Callable[[bytes], bytes]:
    """A column chunk of one page with its header changed."""

    def changed(piece: bytes) -> bytes:
        fields, end = read(piece)
        assert write(fields) == piece[:end], "it comes back as it was"
        change(fields)
        return write(fields) + piece[end:]

    return changed


def _size(piece: bytes, at: int) -> int:
    """Bytes of the page at ``at``, header included; the store's small columns have one."""
    fields, end = read(piece, at)
    return end - at + int(fields[3].value)
