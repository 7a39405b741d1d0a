"""The one Source over everything that can hand out columns by row number.

Opening makes one pass over the data, block by block, to check inputs, to compute keys and to see which labels there
are. Keys stay in memory (16 bytes a row), or in an unlinked temporary file from a quarter of a million rows on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.keys import KEY_BYTES, content_keys, fingerprint, id_keys
from softlabels.sources.columns import input_array
from softlabels.sources.protocol import Columns
from softlabels.sources.readers import BlockReader

KEYS_IN_MEMORY = 4 * 2**20
PASS_ROWS = 16_384
"""Rows whose inputs are converted at a time while opening."""


class Backend(Protocol):
    """Inputs and columns by row number; what differs between tables and arrays."""

    where: str

    def __len__(self) -> int:
        """Rows."""

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Inputs of the rows, checked."""

    def column(self, name: str, rows: NDArray[np.int64]) -> pa.Array:
        """Values of a label, id or split column."""


class TableBackend:
    """Columns of a table file."""

    def __init__(self, reader: BlockReader, columns: Columns) -> None:
        self.where = reader.where
        self._reader = reader
        self._columns = columns

    def __len__(self) -> int:
        return len(self._reader)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Inputs of the rows, in their order."""
        out: NDArray[np.generic] | None = None
        for positions, table in self._reader.take(rows, list(self._columns.inputs)):
            array = input_array(table, self._columns, self.where, int(rows[positions[0]]))
            if len(positions) == len(rows):
                return array
            if out is None:
                out = np.empty((len(rows), *array.shape[1:]), array.dtype)
            if array.shape[1:] != out.shape[1:]:
                raise InvalidData(
                    f"{self.where}, row {int(rows[positions[0]])}: an input of shape {array.shape[1:]}, "
                    f"but earlier ones have {out.shape[1:]}; inputs must have one shape"
                )
            out[positions] = array
        if out is None:
            raise InvalidData(f"{self.where}: no rows were asked for")
        return out

    def column(self, name: str, rows: NDArray[np.int64]) -> pa.Array:
        """Values of one column, in the order of rows."""
        pieces = list(self._reader.take(rows, [name]))
        values = pa.concat_arrays([chunk for _, table in pieces for chunk in table.column(name).chunks])
        order = np.argsort(np.concatenate([positions for positions, _ in pieces]), kind="stable")
        return values.take(pa.array(order))


class IndexedSource:
    """A source over a backend; see Source for what the methods mean."""

    def __init__(self, spec: str, backend: Backend, columns: Columns) -> None:
        self._spec = spec
        self._backend = backend
        self._columns = columns
        if len(backend) == 0:
            raise InvalidData(f"{backend.where} has no rows")
        first = backend.inputs(np.zeros(1, np.int64))
        self._shape, self._dtype = first.shape[1:], first.dtype
        self._names, self._classes = self._read_classes()
        self._keys = self._compute_keys()
        pieces = range(0, len(self), PASS_ROWS)
        self._fingerprint = fingerprint(self._keys[start : start + PASS_ROWS] for start in pieces)

    def __getstate__(self) -> dict[str, object]:
        """As it is, but for keys in a temporary file, which only this process has."""
        return self.__dict__ | {"_keys": np.array(self._keys)}

    @property
    def spec(self) -> str:
        """What the user typed."""
        return self._spec

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        return self._columns

    @property
    def fingerprint(self) -> str:
        """Names the ordered keys (hexadecimal)."""
        return self._fingerprint

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self._shape

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""
        return self._dtype

    @property
    def classes(self) -> int | None:
        """Number of classes the hard labels show; None without any."""
        return self._classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes where labels are text."""
        return self._names

    def __len__(self) -> int:
        return len(self._backend)

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Keys of rows start to stop, (n, 16)."""
        return self._keys[start:stop]

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Inputs of ``rows``, (n, *input_shape)."""
        return self._backend.inputs(rows) if len(rows) else np.empty((0, *self._shape), self._dtype)

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Hard labels of ``rows``, -1 where a row has none; None without a label column."""
        if self._columns.label is None:
            return None
        if len(rows) == 0:
            return np.empty(0, np.int64)
        values = self._backend.column(self._columns.label, rows)
        if self._names is not None:
            values = pc.index_in(values.cast(pa.string()), pa.array(self._names))
        numbers = values.cast(pa.int64()).fill_null(-1)
        return np.asarray(numbers, dtype=np.int64)

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Numbers of the rows whose split is ``name``; all rows for None.

        Raises:
            InvalidArgument: there is no split column, or none of its values is ``name``.
        """
        if name is None:
            return np.arange(len(self), dtype=np.int64)
        if name not in self.splits():
            there = f"its splits are {', '.join(self.splits())}" if self.splits() else "it has no split column"
            raise InvalidArgument(f"{self._backend.where} has no split {name!r}: {there}")
        chosen = [start + np.flatnonzero(np.asarray(pc.equal(values, name).fill_null(fill_value=False)))
                  for start, values in self._column_pieces(self._columns.split)]  # fmt: skip
        return np.concatenate(chosen).astype(np.int64)

    def splits(self) -> tuple[str, ...]:
        """The names in the split column, sorted."""
        names: set[str] = set()
        for _, values in self._column_pieces(self._columns.split):
            names.update(str(value) for value in pc.unique(values).to_pylist() if value is not None)
        return tuple(sorted(names))

    def _row_ranges(self) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(self), PASS_ROWS):
            yield np.arange(start, min(start + PASS_ROWS, len(self)), dtype=np.int64)

    def _column_pieces(self, name: str | None) -> Iterator[tuple[int, pa.Array]]:
        """A column in pieces, each with the number of its first row; nothing where there is no such column."""
        if name is not None:
            for rows in self._row_ranges():
                yield int(rows[0]), self._backend.column(name, rows)

    def _compute_keys(self) -> NDArray[np.uint8]:
        """Keys of all rows; reads every input once, which checks them all."""
        size = len(self) * KEY_BYTES
        if size <= KEYS_IN_MEMORY:
            keys: NDArray[np.uint8] = np.empty((len(self), KEY_BYTES), np.uint8)
        else:
            file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the map, and has no name to leave behind
            keys = np.memmap(file, np.uint8, "w+", shape=(len(self), KEY_BYTES))
        for rows in self._row_ranges():
            inputs = self._backend.inputs(rows)
            if inputs.shape[1:] != self._shape or inputs.dtype != self._dtype:
                raise InvalidData(
                    f"{self._backend.where}, rows {rows[0]} to {rows[-1]}: inputs of shape {inputs.shape[1:]}, "
                    f"but row 0 has {self._shape}; inputs must have one shape"
                )
            if self._columns.id is None:
                keys[rows[0] : rows[-1] + 1] = content_keys(inputs)
            else:
                keys[rows[0] : rows[-1] + 1] = self._id_keys(rows)
        return keys

    def _id_keys(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        ids = self._backend.column(str(self._columns.id), rows)
        if ids.null_count:
            row = int(rows[0]) + int(np.argmax(np.asarray(ids.is_null())))
            raise InvalidData(f"{self._backend.where}, row {row}: the id in column {self._columns.id!r} is null")
        return id_keys(ids.to_pylist())

    def _read_classes(self) -> tuple[tuple[str, ...] | None, int | None]:
        """Names (for text labels) and number of classes; checks every label."""
        names: set[str] = set()
        highest = -1
        for start, values in self._column_pieces(self._columns.label):
            if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                names.update(name for name in pc.unique(values).to_pylist() if name is not None)
            elif pa.types.is_integer(values.type):
                highest = max(highest, self._highest_label(values, start))
            elif not pa.types.is_null(values.type):
                raise InvalidData(
                    f"{self._backend.where}, column {self._columns.label!r}: labels are whole numbers or text, "
                    f"not {values.type}"
                )
        if names:
            return tuple(sorted(names)), len(names)
        return None, highest + 1 if highest >= 0 else None

    def _highest_label(self, values: pa.Array, start: int) -> int:
        numbers = np.asarray(values.cast(pa.int64()).fill_null(-1))
        negative = np.flatnonzero(numbers < -1)
        if len(negative):
            raise InvalidData(
                f"{self._backend.where}, row {start + int(negative[0])}: the label {numbers[negative[0]]} is negative; "
                "use 0 and up, and null or -1 where a row has none"
            )
        return int(numbers.max(initial=-1))
