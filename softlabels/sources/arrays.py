"""A table over arrays: one row per entry of the first axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidData


class RowArray(Protocol):
    """An array whose rows can be read: in memory, or in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape; the first axis are the rows."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        """Return rows, in the order of ``rows``."""


class ArrayTable:
    """A table of arrays by name; see Table for the methods.

    Args:
        name: Name of the data, for messages.
        arrays: Arrays of at least one axis.

    Raises:
        InvalidData: An array holds values that cannot be stored in a table.

    Example:
        >>> table = ArrayTable("arrays", {"x": np.array([[1, 2], [3, 4]])})
        >>> table.read(np.array([1]), ["x"])["x"].to_pylist()
        [[3, 4]]
    """

    def __init__(self, name: str, arrays: Mapping[str, RowArray]) -> None:
        self.name = name
        self.decoded_rows = 0
        self._arrays = dict(arrays)
        self.schema = pa.schema([(column, _column_type(array)) for column, array in arrays.items()])

    def __len__(self) -> int:
        return next((array.shape[0] for array in self._arrays.values()), 0)

    def select(self, columns: Sequence[str]) -> ArrayTable:
        """Return the table restricted to ``columns``.

        Raises:
            InvalidData: They have unequal numbers of rows.
        """
        chosen = {column: self._arrays[column] for column in columns}
        if len({array.shape[0] for array in chosen.values()}) > 1:
            listed = ", ".join(f"{column}: {array.shape[0]}" for column, array in chosen.items())
            raise InvalidData(
                f"{self.name}: the arrays must have equal numbers of rows, got {listed}. "
                "Name the input with input= and the label with label="
            )
        return ArrayTable(self.name, chosen)

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return ``columns`` of ``rows``, in that order; axes after the first become lists of fixed size."""
        return pa.table([self._read_column(column, rows) for column in columns], names=list(columns))

    def array(self, column: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return one column of ``rows`` without the detour over Arrow, in native byte order and memory of its own.

        Raises:
            InvalidData: The dtype cannot be stored in a table.
        """
        array = self._arrays[column][rows]
        _check_dtype(array.dtype, f"{self.name}, array {column!r}")
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _read_column(self, column: str, rows: NDArray[np.int64]) -> pa.Array:
        array = self.array(column, rows)
        values = pa.array(np.ascontiguousarray(array).reshape(-1))
        for size in reversed(array.shape[1:]):
            if size == 0:
                raise InvalidData(f"{self.name}, array {column!r}: rows hold no values, got shape {array.shape}")
            values = pa.FixedSizeListArray.from_arrays(values, size)
        return values


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind not in "biufUS" or (dtype.itemsize > 8 and dtype.kind == "f"):
        raise InvalidData(
            f"{name}: unsupported dtype {dtype}; expected numbers of at most 64 bits, booleans or text. "
            "Convert the array, or name others with input= and label="
        )


def _column_type(array: RowArray) -> pa.DataType:
    """Return the Arrow type that an array's rows have; what no column can hold shows as a struct."""
    dtype = array.dtype
    kind = pa.struct([])
    if dtype.kind in "biuf" and dtype.itemsize <= 8:
        kind = pa.from_numpy_dtype(dtype.newbyteorder("="))
    elif dtype.kind in "US":
        kind = pa.string() if dtype.kind == "U" else pa.binary()
    for size in array.shape[1:]:
        kind = pa.list_(kind, size) if size else pa.list_(kind)
    return kind
