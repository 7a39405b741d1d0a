"""Arrays in an .npz file: one row per entry of the first axis.

Members that were stored uncompressed (``np.savez``) are mapped into memory, so a file larger than memory works;
compressed ones are read once. Object arrays are refused: loading them would run code.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.protocol import Columns

LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name."""


class ArrayBackend:
    """Arrays by name, all with the same number of rows."""

    def __init__(self, path: Path, arrays: dict[str, NDArray[np.generic]], columns: Columns) -> None:
        self.where = str(path)
        self._arrays = arrays
        self._columns = columns
        lengths = {name: len(arrays[name]) for name in arrays}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name}: {count}" for name, count in lengths.items())
            raise InvalidData(f"{path}: the arrays have unequal numbers of rows ({listed})")

    def __reduce__(self) -> tuple[Callable[[Path, Columns], ArrayBackend], tuple[Path, Columns]]:
        """Another process opens the file itself."""
        return open_arrays, (Path(self.where), self._columns)

    def __len__(self) -> int:
        return len(self._arrays[self._columns.inputs[0]])

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Inputs of the rows."""
        arrays = [self._arrays[name][_as_slice(rows)] for name in self._columns.inputs]
        array = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
        if array.dtype.kind == "f":
            finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
            if not finite.all():
                raise InvalidData(
                    f"{self.where}, row {int(rows[finite.argmin()])}: the input holds NaN or infinite values; "
                    "mend or drop that row"
                )
        return np.asarray(array)

    def column(self, name: str, rows: NDArray[np.int64]) -> pa.Array:
        """Values of a label, id or split array."""
        return pa.array(self._arrays[name][_as_slice(rows)])


def open_arrays(path: Path, columns: Columns) -> ArrayBackend:
    """The arrays of a file with these roles."""
    return ArrayBackend(path, read_arrays(path), columns)


def _as_slice(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """A run of rows as a slice: it maps instead of copying."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of an .npz file with at least one axis, by name.

    Raises:
        InvalidData: not an .npz file, damaged, or holding object arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            arrays = {info.filename.removesuffix(".npy"): _read_member(path, archive, info) for info in members}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise InvalidData(
            f"{path} cannot be read as npz: {error}. Write it with numpy.savez, of plain numbers"
        ) from error
    return {name: array for name, array in arrays.items() if array.ndim}


def schema_of(arrays: dict[str, NDArray[np.generic]]) -> pa.Schema:
    """An Arrow schema with the arrays' names; more than one axis shows as a list."""
    fields = []
    for name, array in arrays.items():
        kind = pa.from_numpy_dtype(array.dtype) if array.dtype.kind in "iufb" else pa.string()
        fields.append((name, pa.list_(kind) if array.ndim > 1 else kind))
    return pa.schema(fields)


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[np.generic]:
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        header = stream.tell()
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        if info.compress_type != zipfile.ZIP_STORED or fortran or 0 in shape:
            stream.seek(0)
            return np.asarray(npy.read_array(stream, allow_pickle=False))
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        local = raw.read(LOCAL_HEADER)
    start = info.header_offset + LOCAL_HEADER + int.from_bytes(local[26:28], "little")
    start += int.from_bytes(local[28:30], "little") + header
    return np.memmap(path, dtype, "r", offset=start, shape=shape)
