"""Just enough of Thrift's compact protocol to see what a Parquet footer or page says before a decoder acts on it.

pyarrow 26.0.1 aborts the process on some values in a footer (an unknown codec), so nothing is asked of it before this
has looked. Source: Thrift's compact protocol specification, and parquet.thrift of the Parquet format.
"""

from __future__ import annotations

from typing import TypeAlias

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DEEPEST = 8
"""Structs within structs and lists, which a footer needs six of."""

Value: TypeAlias = "int | bytes | list[Value] | Struct"
Struct: TypeAlias = "dict[int, Value]"


def read_struct(data: bytes, at: int = 0, depth: int = 0) -> tuple[Struct, int]:
    """Fields of a struct by number, and where it ends.

    Raises:
        ValueError: cut off, nested too deeply, or with a type that no Parquet header has.
    """
    if depth > DEEPEST:
        raise ValueError("a header nested too deeply")
    fields: Struct = {}
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
        if kind in {TRUE, FALSE}:
            fields[number] = int(kind == TRUE)
        else:
            fields[number], at = _read_value(data, at, kind, depth)


def number(fields: Struct, field: int) -> int:
    """A field that is to be a whole number.

    Raises:
        ValueError: it is missing, or something else.
    """
    value = fields.get(field)
    if not isinstance(value, int):
        raise ValueError(f"a header without the number of field {field}")  # noqa: TRY004  one error type
    return value


def struct(fields: Struct, field: int) -> Struct:
    """A field that is to be a struct; ValueError as for number."""
    value = fields.get(field)
    if not isinstance(value, dict):
        raise ValueError(f"a header without the struct of field {field}")  # noqa: TRY004  one error type
    return value


def structs(fields: Struct, field: int) -> list[Struct]:
    """A field that is to be a list of structs; ValueError as for number."""
    value = fields.get(field)
    if not isinstance(value, list):
        raise ValueError(f"a header without the list of field {field}")  # noqa: TRY004  one error type
    found = [item for item in value if isinstance(item, dict)]
    if len(found) != len(value):
        raise ValueError(f"a header whose list of field {field} holds something else than structs")
    return found


def numbers(fields: Struct, field: int) -> list[int]:
    """A field that is to be a list of whole numbers; ValueError as for number."""
    value = fields.get(field)
    if not isinstance(value, list):
        raise ValueError(f"a header without the list of field {field}")  # noqa: TRY004  one error type
    found = [item for item in value if isinstance(item, int)]
    if len(found) != len(value):
        raise ValueError(f"a header whose list of field {field} holds something else than numbers")
    return found


def _read_value(data: bytes, at: int, kind: int, depth: int) -> tuple[Value, int]:
    if kind in {TRUE, FALSE, BYTE}:  # in a list; a field has its truth in its head
        return _byte(data, at)
    if kind in {I16, I32, I64}:
        return _zigzag(data, at)
    if kind == BINARY:
        size, at = _varint(data, at)
        if size > len(data) - at:
            raise ValueError("a header is cut off")
        return data[at : at + size], at + size
    if kind == LIST:
        return _read_list(data, at, depth)
    if kind == STRUCT:
        return read_struct(data, at, depth + 1)
    raise ValueError(f"a header with a field of type {kind}")


def _read_list(data: bytes, at: int, depth: int) -> tuple[list[Value], int]:
    if depth > DEEPEST:
        raise ValueError("a header nested too deeply")
    head, at = _byte(data, at)
    count, kind = head >> 4, head & 0x0F
    if count == 15:
        count, at = _varint(data, at)
    if count > len(data) - at:  # each item takes a byte at least
        raise ValueError("a header is cut off")
    items: list[Value] = []
    for _ in range(count):
        item, at = _read_value(data, at, kind, depth + 1)
        items.append(item)
    return items, at


def _byte(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise ValueError("a header is cut off")
    return data[at], at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, at = _byte(data, at)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a header with an endless number")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
