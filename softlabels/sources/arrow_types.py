"""Arrow types: the classification of columns, and their conversion to the few types that the rest of the code reads.

Writers disagree on types: polars writes ``string_view``, pandas dictionaries, ``datasets`` extension types. After
``plain_array`` a column is null, boolean, a number, text, binary, or a list of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from softlabels.errors import InvalidData


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column, without dictionary, run-end or extension wrappers.

    Example:
        >>> value_type(pa.dictionary(pa.int8(), pa.string()))
        DataType(string)
    """
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def is_list(kind: pa.DataType) -> bool:
    """Return True if a type is a list of any layout."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Return True if values of a type are numbers or booleans."""
    kind = value_type(kind)
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def numbers_of(array: pa.Array, null: int | None = None) -> NDArray[Any]:
    """Return numbers or booleans as a read-only array.

    Arrow's own conversion imports pandas where it is installed, which takes 0.4 s.

    Args:
        array: Integers, floats or booleans.
        null: Value in place of nulls; None: NaN, and numbers are floats.

    Example:
        >>> numbers_of(pa.array([True, False])).tolist()
        [True, False]
    """
    if array.null_count and null is None:
        array = array.cast(pa.float64(), safe=False).fill_null(math.nan)
    elif array.null_count:
        array = array.fill_null(null)
    if pa.types.is_boolean(array.type):
        return numbers_of(array.cast(pa.uint8())).view(np.bool_)
    values = np.from_dlpack(array).view()
    values.flags.writeable = False
    return values


def is_tensor(kind: pa.DataType) -> bool:
    """Return True if values of a type are lists of numbers, at any depth.

    Example:
        >>> is_tensor(pa.list_(pa.list_(pa.int8()))), is_tensor(pa.list_(pa.string()))
        (True, False)
    """
    kind = value_type(kind)
    if not is_list(kind):
        return False
    return is_number(kind.value_type) or is_tensor(kind.value_type)


def is_text(kind: pa.DataType) -> bool:
    """Return True if values of a type are text."""
    kind = value_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Return True if values of a type are bytes."""
    kind = value_type(kind)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def is_image_struct(kind: pa.DataType) -> bool:
    """Return True for a struct of bytes and path, the layout of images in Hugging Face ``datasets``.

    Example:
        >>> is_image_struct(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        True
    """
    kind = value_type(kind)
    if not pa.types.is_struct(kind):
        return False
    names = {kind.field(i).name for i in range(kind.num_fields)}
    if "bytes" not in names or not names <= {"bytes", "path"}:
        return False
    return is_binary(kind.field("bytes").type) or pa.types.is_null(kind.field("bytes").type)


def plain_table(table: pa.Table, name: str) -> pa.Table:
    """Return a table whose columns have plain types, in one piece each.

    Args:
        table: Any table.
        name: Name of the data, for messages.

    Raises:
        InvalidData: A column has a layout that cannot be converted, or text that is not UTF-8.
    """
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        try:
            if pa.types.is_primitive(column.type) and column.num_chunks == 1:
                columns.append(column.chunk(0))  # the common case, quick for tables of many columns
                continue
            chunks = [_with_wide_offsets(plain_array(chunk)) for chunk in column.chunks]
            columns.append(
                pa.concat_arrays(chunks) if chunks else _with_wide_offsets(plain_array(pa.array([], column.type)))
            )
        except (pa.ArrowException, TypeError) as error:
            raise InvalidData(f"{name}, column {field.name!r}: cannot be read as {field.type}: {error}") from error
    return pa.table(columns, names=table.column_names)


def plain_array(array: pa.Array) -> pa.Array:
    """Return an array of a plain type: wrappers are decoded, views become contiguous, in nested lists too.

    Example:
        >>> plain_array(pa.array(["a", "b", "a"]).dictionary_encode()).to_pylist()
        ['a', 'b', 'a']
    """
    for matches, convert in _CONVERSIONS:
        if matches(array.type):
            return convert(array)
    return array


def scalar_values(values: pa.Array, name: str, first_row: int) -> pa.Array:
    """Return labels or splits that are lists of one value, such as arrays of shape (n, 1), as plain values.

    Args:
        values: (n,) values or lists.
        name: Name of the data and the column, for messages.
        first_row: Number of the first row, for messages.

    Raises:
        InvalidData: A list has another length, for example because labels are one-hot; names the row.

    Example:
        >>> scalar_values(pa.array([[1], [0]]), "data", 0).to_pylist()
        [1, 0]
    """
    while is_list(values.type):
        lengths = numbers_of(values.value_lengths(), null=1)
        if values.null_count or (lengths != 1).any():
            row = int((lengths != 1).argmax())
            raise InvalidData(
                f"{name}, row {first_row + row}: expected one value per row, got a list of {lengths[row]}. "
                "Store class numbers (argmax of one-hot rows), name another column with label=, or use label=False"
            )
        values = values.flatten()
    return values


def _with_wide_offsets(array: pa.Array) -> pa.Array:
    """Return an array whose lists and texts have 64-bit offsets, so that joining chunks cannot overflow them."""
    if is_text(array.type):
        array.validate(full=True)  # readers of files do not check that text is UTF-8
    wide = _wide_type(array.type)
    return array if wide == array.type else array.cast(wide)


def _wide_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_wide_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_wide_type(kind.value_type), kind.list_size)
    if pa.types.is_string(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary(kind) else kind


def _is_wrapped(kind: pa.DataType) -> bool:
    """Return True if a type, or one nested in it, is not plain."""
    if is_list(kind):
        return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)) or _is_wrapped(kind.value_type)
    return value_type(kind) is not kind or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)


def _with_plain_values(array: pa.Array) -> pa.Array:
    """Return a list array over plain values; values hidden under null lists are dropped."""
    values = plain_array(array.flatten())
    lengths = numbers_of(array.value_lengths(), null=0).astype(np.int64)
    return _list_array(lengths, values, array)


def _from_list_view(array: pa.Array) -> pa.Array:
    """Return a list view as a list. Arrow's own cast of a list view builds an invalid array."""
    lengths = numbers_of(array.value_lengths(), null=0).astype(np.int64)
    return _list_array(lengths, plain_array(array.flatten()), array)


def _list_array(lengths: np.ndarray[tuple[int, ...], np.dtype[np.int64]], values: pa.Array, like: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    mask = like.is_null() if like.null_count else None
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values, mask=mask)


def _nested(array: pa.Array) -> pa.Array:
    """Return tensors of a fixed shape as nested lists."""
    kind = array.type
    if kind.permutation and list(kind.permutation) != sorted(kind.permutation):
        raise TypeError(f"tensors with permuted axes {list(kind.permutation)} are not supported; store them in C order")
    if array.null_count or math.prod(kind.shape) == 0:
        return plain_array(array.storage)
    values = array.storage.flatten()
    for size in reversed(kind.shape):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def _dictionary_values(array: pa.Array) -> pa.Array:
    """Return the values of a dictionary array; its dictionary becomes plain first."""
    return pa.DictionaryArray.from_arrays(array.indices, plain_array(array.dictionary)).dictionary_decode()


def _uuid_texts(array: pa.Array) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())


_CONVERSIONS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]], ...] = (
    (lambda kind: isinstance(kind, pa.FixedShapeTensorType), _nested),
    (lambda kind: isinstance(kind, pa.UuidType), _uuid_texts),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), lambda array: plain_array(array.storage)),
    (pa.types.is_run_end_encoded, lambda array: plain_array(pc.run_end_decode(array))),
    (pa.types.is_dictionary, _dictionary_values),
    (pa.types.is_string_view, lambda array: array.cast(pa.string())),
    (pa.types.is_binary_view, lambda array: array.cast(pa.binary())),
    (lambda kind: pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind), _from_list_view),
    (lambda kind: is_list(kind) and _is_wrapped(kind.value_type), _with_plain_values),
)
"""Conversions of types, in the order they are tried."""
