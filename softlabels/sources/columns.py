"""Choosing columns, and turning Arrow columns into arrays of one shape."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import ColumnMissing, InvalidData
from softlabels.sources.protocol import Columns

INPUT_NAMES = ("image", "input", "inputs", "x", "features", "pixels")
LABEL_NAMES = ("label", "labels", "target", "y", "class")
SPLIT_NAME = "split"


def choose_columns(
    schema: pa.Schema, where: str, *, input_column: str | None, label_column: str | None, id_column: str | None
) -> Columns:
    """The roles of the columns of ``schema``: as named, else by the names people use.

    The input is the first column named as one of INPUT_NAMES; without such a column, all numeric columns that are
    neither label, id nor split, in file order.

    Raises:
        ColumnMissing: a named column is not there, or nothing can be the input; lists the columns.
    """
    names = schema.names
    for named in (input_column, label_column, id_column):
        if named is not None:
            require_column(named, names, where)
    label = label_column or next((name for name in LABEL_NAMES if name in names and name != input_column), None)
    split = SPLIT_NAME if SPLIT_NAME in names else None
    taken = {label, id_column, split}
    if input_column is not None:
        inputs: tuple[str, ...] = (input_column,)
    else:
        first = next((name for name in INPUT_NAMES if name in names and name not in taken), None)
        numeric = [field.name for field in schema if field.name not in taken and _is_number(field.type)]
        inputs = (first,) if first else tuple(numeric)
    if not inputs:
        raise ColumnMissing(
            f"{where} has no column to feed a model ({', '.join(INPUT_NAMES)}, or numeric ones); "
            f"it has: {', '.join(names)}. Name one with --input"
        )
    return Columns(inputs=inputs, label=label, id=id_column, split=split)


def require_column(name: str, names: Sequence[str], where: str) -> None:
    """Raise ColumnMissing, with the nearest name, unless ``name`` is one of ``names``."""
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ColumnMissing(f"{where} has no column {name!r}; it has: {', '.join(names)}{hint}")


def input_array(table: pa.Table, columns: Columns, where: str, first_row: int) -> NDArray[np.generic]:
    """The inputs of all rows of ``table``, (n, *shape); several columns are stacked as the last axis.

    Raises:
        InvalidData: nulls, values that are not numbers, NaN or infinities, rows of unequal shape; names the row.
    """
    arrays = [_numbers(table.column(name), f"{where}, column {name!r}", first_row) for name in columns.inputs]
    array = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
    if array.dtype.kind == "f":
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise InvalidData(
                f"{where}, row {first_row + int(finite.argmin())}: the input holds NaN or infinite values; "
                "mend or drop that row"
            )
    return array


def _numbers(column: pa.ChunkedArray, where: str, first_row: int) -> NDArray[np.generic]:
    """A column of numbers, or of lists of them, as one array; the row count comes first."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    shape: list[int] = [len(array)]
    while True:
        if array.null_count:
            row = int(np.argmax(np.asarray(array.is_null()))) // max(int(np.prod(shape[1:])), 1)
            raise InvalidData(f"{where}, row {first_row + row}: the input is null; mend or drop that row")
        if pa.types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            shape.append(_uniform_length(array, where, first_row, int(np.prod(shape[1:]))))
        else:
            break
        array = array.flatten()
    if not _is_number(array.type):
        raise InvalidData(f"{where}: values of type {array.type} cannot be fed to a model; numbers can")
    values = array.to_numpy(zero_copy_only=False)
    return np.asarray(values).reshape(shape)


def _uniform_length(array: pa.Array, where: str, first_row: int, lists_per_row: int) -> int:
    """Length of every list in ``array``; InvalidData names the first row with another one."""
    lengths = np.asarray(array.value_lengths())
    if len(lengths) == 0:
        return 0
    odd = np.flatnonzero(lengths != lengths[0])
    if len(odd):
        raise InvalidData(
            f"{where}, row {first_row + int(odd[0]) // max(lists_per_row, 1)}: {lengths[odd[0]]} values, "
            f"but the first row has {lengths[0]}; inputs must have one shape"
        )
    return int(lengths[0])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
