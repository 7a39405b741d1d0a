"""Inputs: columns of numbers, or of nested lists of them, as one array of one shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.arrow_types import is_text, numbers_of
from softlabels.sources.protocol import Columns

EXACT = 2**53
"""Whole numbers above this are not exact as float64."""


def input_array(table: pa.Table, columns: Columns, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
    """Return the inputs of all rows of ``table``, (n, *shape).

    Args:
        table: Rows with plain types (see plain_table).
        columns: Roles of the columns.
        name: Name of the data, for messages.
        rows: (n,) numbers of the rows, for messages.

    Raises:
        InvalidData: Nulls, values that are not numbers, NaN or infinities, rows of unequal shape; names the row.
    """
    arrays = [column_array(table.column(column), f"{name}, column {column!r}", rows) for column in columns.inputs]
    return join_columns(arrays, columns, name, rows)


def join_columns(
    arrays: Sequence[NDArray[np.generic]], columns: Columns, name: str, rows: NDArray[np.int64]
) -> NDArray[np.generic]:
    """Return the input columns as one array, (n, *shape); stacked columns become the last axis.

    Args:
        arrays: (n, ...) numbers of each input column.
        columns: Roles of the columns.
        name: Name of the data, for messages.
        rows: (n,) numbers of the rows, for messages.

    Raises:
        InvalidData: Inputs without values, NaN or infinities; names the row.
    """
    array = _stack(arrays, columns.inputs, name) if columns.stacked else arrays[0]
    if math.prod(array.shape[1:]) == 0:
        raise InvalidData(f"{name}: an input must have at least one value, got inputs of shape {array.shape[1:]}")
    if array.dtype.kind == "f":
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise InvalidData(
                f"{name}, row {rows[int(finite.argmin())]}: the input holds NaN or infinite values. "
                "Correct or remove that row"
            )
    return array


def _stack(arrays: Sequence[NDArray[np.generic]], columns: Sequence[str], name: str) -> NDArray[np.generic]:
    """Return scalar columns side by side, (n, columns), in the dtype that holds them all."""
    for array, column in zip(arrays, columns, strict=True):
        if array.ndim > 1:
            raise InvalidData(
                f"{name}, column {column!r}: only scalar columns can be stacked, got shape {array.shape[1:]}. "
                "Name it alone with input=, or leave it out"
            )
    dtype = np.result_type(*arrays)
    if dtype.kind == "f":
        for array, column in zip(arrays, columns, strict=True):
            if array.dtype.kind in "iu" and array.dtype.itemsize == dtype.itemsize == 8 and _exceeds(array):
                raise InvalidData(
                    f"{name}, column {column!r}: whole numbers beyond 2^53 are not exact beside fractions. "
                    "Scale the column, store it as float64, or leave it out with input="
                )
    return np.stack(arrays, axis=-1, dtype=dtype, casting="unsafe")


def _exceeds(array: NDArray[np.generic]) -> bool:
    return bool(len(array) and (int(array.max()) > EXACT or int(array.min()) < -EXACT))


def column_array(column: pa.ChunkedArray, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
    """Return a column of numbers, or of nested lists of them, as an array; the first axis are the rows.

    Args:
        column: The column, of a plain type.
        name: Name of the data and the column, for messages.
        rows: (n,) numbers of the rows, for messages.

    Raises:
        InvalidData: Nulls, values that are not numbers, or rows of unequal shape; names the row.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    shape: list[int] = [len(array)]
    while True:
        if array.null_count:
            row = int(np.argmax(numbers_of(array.is_null()))) // max(math.prod(shape[1:]), 1)
            raise InvalidData(f"{name}, row {rows[row]}: the value is null. Correct or remove that row")
        if pa.types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            shape.append(_uniform_length(array, name, rows, math.prod(shape[1:])))
        else:
            break
        array = array.flatten()
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)):
        kind = "text" if is_text(array.type) else str(array.type)
        raise InvalidData(
            f"{name}: values of type {kind} cannot be the input of a model; expected numbers. "
            "Convert the column, or name another one with input="
        )
    return numbers_of(array).reshape(shape)


def _uniform_length(array: pa.Array, name: str, rows: NDArray[np.int64], lists_per_row: int) -> int:
    """Return the length of every list in ``array``.

    Raises:
        InvalidData: Lengths differ; names the first row with another one.
    """
    lengths = numbers_of(array.value_lengths())
    if len(lengths) == 0:
        return 0
    odd = np.flatnonzero(lengths != lengths[0])
    if len(odd):
        raise InvalidData(
            f"{name}, row {rows[int(odd[0]) // max(lists_per_row, 1)]}: values must have one shape, "
            f"got {lengths[odd[0]]} values; expected {lengths[0]} as in row {rows[0]}"
        )
    return int(lengths[0])
