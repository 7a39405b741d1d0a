"""Ids: names of rows that take the place of their content. An id is its text, and no two rows share one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.keys import KEY_BYTES, id_keys, repeated_rows
from softlabels.sources.arrow_types import is_binary, is_text


def id_column_keys(ids: pa.Array, name: str, first_row: int) -> NDArray[np.uint8]:
    """Return the keys of rows named by a column of ids, (n, 16).

    Text is used as it is, a whole number as its decimal digits. Binary values of 16 bytes are keys themselves.

    Args:
        ids: (n,) plain values.
        name: Name of the data and the column, for messages.
        first_row: Number of the first row, for messages.

    Raises:
        InvalidData: An id is missing or blank, or ids are neither text nor whole numbers; names the row.

    Example:
        >>> bool((id_column_keys(pa.array([7]), "data", 0) == id_keys(["7"])).all())
        True
    """
    _require(ids.is_valid(), "the id is missing", name, first_row)
    if pa.types.is_fixed_size_binary(ids.type) and ids.type.byte_width == KEY_BYTES:
        return np.frombuffer(b"".join(ids.to_pylist()), np.uint8).reshape(-1, KEY_BYTES)
    if pa.types.is_decimal(ids.type) and ids.type.scale == 0:
        texts = [str(int(value)) for value in ids.to_pylist()]
    elif is_binary(ids.type):
        texts = _decoded(ids, name, first_row)
    elif is_text(ids.type) or pa.types.is_integer(ids.type):
        texts = [str(value) for value in ids.to_pylist()]
    else:
        raise InvalidData(f"{name}: ids must be text or whole numbers, got {ids.type}. Store the column as text")
    _require([bool(text.strip()) for text in texts], "the id is blank", name, first_row)
    return id_keys(texts)


def _decoded(ids: pa.Array, name: str, first_row: int) -> list[str]:
    try:
        return [value.decode() for value in ids.to_pylist()]
    except UnicodeDecodeError as error:
        raise InvalidData(
            f"{name}, rows {first_row} to {first_row + len(ids) - 1}: ids of bytes must be UTF-8 text or {KEY_BYTES} "
            f"bytes of a fixed-size column: {error}. Store the column as text"
        ) from error


def _require(valid: object, problem: str, name: str, first_row: int) -> None:
    present = np.asarray(valid, bool)
    if not present.all():
        row = first_row + int(present.argmin())
        raise InvalidData(f"{name}, row {row}: {problem}; every row needs one. Fill it in, or name rows by content")


def require_unique(keys: NDArray[np.uint8], name: str) -> None:
    """Raise unless all ids are different.

    Args:
        keys: (n, 16) keys of ids.
        name: Name of the data, for messages.

    Raises:
        InvalidData: Two rows have one id; names both.
    """
    repeated = repeated_rows(keys)
    if repeated is not None:
        raise InvalidData(
            f"{name}: ids must be unique, but rows {repeated[0]} and {repeated[1]} have the same id. "
            "Correct or remove one of them, or use another column"
        )
