"""The part of Thrift's compact protocol that Parquet footers and page headers need.

pyarrow 26.0.1 aborts the process on some values in a footer, such as an unknown codec. Everything that a decoder will
act on is therefore read here first. A caller bounds the number of values, because a byte of input can become a hundred
bytes of objects. Sources: the specification of Thrift's compact protocol, and parquet.thrift of the Parquet format.
"""

from __future__ import annotations

from typing import TypeAlias

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_TRUTHS, _BYTES, _NUMBERS = {TRUE, FALSE}, {TRUE, FALSE, BYTE}, {I16, I32, I64}
MAX_DEPTH = 8
"""Levels of structs and lists; a footer has six."""

Value: TypeAlias = "int | bytes | list[Value] | Struct"
Struct: TypeAlias = "dict[int, Value]"


def read_struct(data: bytes | memoryview, start: int, limit: int) -> tuple[Struct, int]:
    """Return the fields of a struct by number, and the offset of its end.

    Args:
        data: Bytes that contain the struct.
        start: Offset of its first byte.
        limit: Number of values, those within it included, above which it is refused.

    Raises:
        ValueError: The struct is cut off, nested too deeply, too large, or has a type that no Parquet header has.

    Example:
        >>> read_struct(bytes.fromhex("1504150000"), 0, 10)
        ({1: 2, 2: 0}, 5)
    """
    reader = _Reader(memoryview(data), start, limit)
    return reader.struct(0), reader.offset


class _Reader:
    """A position in bytes, and the number of values that may still be read."""

    __slots__ = ("data", "offset", "remaining")

    def __init__(self, data: memoryview, offset: int, limit: int) -> None:
        self.data = data
        self.offset = offset
        self.remaining = limit

    def struct(self, depth: int) -> Struct:
        if depth > MAX_DEPTH:
            raise ValueError("a header nested too deeply")
        fields: Struct = {}
        identifier = 0
        while head := self.byte():
            self.spend(1)
            kind, step = head & 0x0F, head >> 4
            identifier = identifier + step if step else self.zigzag()
            # A truth is in the head of its field; in a list it is a byte.
            fields[identifier] = int(kind == TRUE) if kind in _TRUTHS else self.value(kind, depth)
        return fields

    def value(self, kind: int, depth: int) -> Value:
        if kind in _NUMBERS:
            return self.zigzag()
        if kind == BINARY:
            return self.binary()
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind == LIST:
            return self.list(depth + 1)
        if kind in _BYTES:
            return self.byte()
        raise ValueError(f"a header with a field of type {kind}")

    def list(self, depth: int) -> list[Value]:
        if depth > MAX_DEPTH:
            raise ValueError("a header nested too deeply")
        head = self.byte()
        count, kind = head >> 4, head & 0x0F
        if count == 15:
            count = self.varint()
        if count > len(self.data) - self.offset:  # an item has a byte at least
            raise ValueError("a header is cut off")
        self.spend(count)
        return [self.value(kind, depth) for _ in range(count)]

    def spend(self, count: int) -> None:
        self.remaining -= count
        if self.remaining < 0:
            raise ValueError("a header with too many values")

    def binary(self) -> bytes:
        size = self.varint()
        if size > len(self.data) - self.offset:
            raise ValueError("a header is cut off")
        self.offset += size
        return bytes(self.data[self.offset - size : self.offset])

    def byte(self) -> int:
        try:
            byte = self.data[self.offset]
        except IndexError:
            raise ValueError("a header is cut off") from None
        self.offset += 1
        return byte

    def varint(self) -> int:
        data, offset = self.data, self.offset
        value = 0
        try:
            for shift in range(0, 70, 7):
                byte = data[offset]
                offset += 1
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    self.offset = offset
                    return value
        except IndexError:
            raise ValueError("a header is cut off") from None
        raise ValueError("a header with an endless number")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)


def number(fields: Struct, field: int) -> int:
    """Return a field that must be a whole number.

    Raises:
        ValueError: It is missing or has another type.
    """
    value = fields.get(field)
    if not isinstance(value, int):
        raise ValueError(f"a header without the number of field {field}")  # noqa: TRY004  one error type
    return value


def struct(fields: Struct, field: int) -> Struct:
    """Return a field that must be a struct; ValueError as for `number`."""
    value = fields.get(field)
    if not isinstance(value, dict):
        raise ValueError(f"a header without the struct of field {field}")  # noqa: TRY004  one error type
    return value


def structs(fields: Struct, field: int) -> list[Struct]:
    """Return a field that must be a list of structs; ValueError as for `number`."""
    items = _items(fields, field)
    result = [item for item in items if isinstance(item, dict)]
    if len(result) != len(items):
        raise ValueError(f"a header whose list of field {field} holds something else than structs")
    return result


def numbers(fields: Struct, field: int) -> list[int]:
    """Return a field that must be a list of whole numbers; ValueError as for `number`."""
    items = _items(fields, field)
    result = [item for item in items if isinstance(item, int)]
    if len(result) != len(items):
        raise ValueError(f"a header whose list of field {field} holds something else than numbers")
    return result


def _items(fields: Struct, field: int) -> list[Value]:
    value = fields.get(field)
    if not isinstance(value, list):
        raise ValueError(f"a header without the list of field {field}")  # noqa: TRY004  one error type
    return value
