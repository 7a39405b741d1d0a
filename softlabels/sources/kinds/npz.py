"""NumPy archives (.npz): one row per entry of the first axis.

An array is read once in full when it is first used, which checks its CRC-32. Arrays of up to 64 MiB stay in memory;
larger ones are read row by row from the archive if they are stored uncompressed (``numpy.savez``), else from a
temporary file with the decompressed rows. Nothing is mapped: a file that is truncated while it is in use is an error
and not a SIGBUS. Object arrays are refused, because loading them would run code.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.arrays import ArrayTable, RowArray
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest
from softlabels.sources.scratch import ArrayBuilder

LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name."""
MAX_IN_MEMORY = 64 * 2**20
"""Bytes of an array that is held in memory."""
BLOCK_BYTES = 2**20
"""Bytes that are read at a time in a pass over an array."""
MAX_GAP = 4
"""Rows at most this far apart are read together, with those between them."""


def open_npz(path: Path, name: str) -> ArrayTable:
    """Return the arrays of an .npz file that have at least one axis; no values are read yet.

    Args:
        path: The file.
        name: Its name in messages.

    Raises:
        InvalidData: The file is no zip archive of arrays, or is damaged.
    """
    with _reading(name), zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        arrays = {info.filename.removesuffix(".npy"): _open_member(path, name, archive, info) for info in members}
    return ArrayTable(name, {member: array for member, array in arrays.items() if array.shape})


@dataclass
class NpzArray:
    """An array of an .npz file, loaded when its rows are first read.

    Attributes:
        path: The file.
        name: Name of the file and the array, for messages.
        member: Name of the array's entry in the archive.
        shape: Shape of the array.
        dtype: Dtype of the array.
        fortran: If True, values are in column-major order.
        header_bytes: Bytes of the entry before the first value.
        offset: Position of the first value in the file; None if the entry is compressed.
        checked: If True, the CRC-32 was compared before, in this process or in one that sent the array here.
    """

    path: Path
    name: str
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    header_bytes: int
    offset: int | None
    checked: bool = False
    _rows: RowArray | None = field(default=None, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without rows that were loaded: another process loads its own."""
        return self.__dict__ | {"_rows": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state in another process."""
        self.__dict__.update(state, _lock=threading.Lock())

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        with self._lock:
            if self._rows is None:
                self._rows = self._load()
                self.checked = True
        return self._rows[rows]

    def _load(self) -> RowArray:
        """Return the rows, in memory or in a file.

        Raises:
            InvalidData: The array is damaged or truncated, or holds Python objects.
        """
        if self.dtype.hasobject:
            raise InvalidData(f"{self.name}: holds Python objects; expected plain numbers or text. Convert the array")
        size = math.prod(self.shape) * self.dtype.itemsize
        in_file = self.offset is not None and size > MAX_IN_MEMORY and not self.fortran
        with _reading(self.name):
            if in_file and self.offset is not None:
                if not self.checked:
                    self._check_crc()
                return StoredRows(self.path, self.name, self.offset, self.shape, self.dtype)
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                stream.seek(self.header_bytes)
                if self.fortran:
                    values = np.frombuffer(stream.read(), self.dtype)
                    return values.reshape(self.shape, order="F")
                return self._decompress(stream)

    def _decompress(self, stream: IO[bytes]) -> NDArray[Any]:
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        step = max(1, BLOCK_BYTES // max(row_bytes, 1))
        builder = ArrayBuilder(self.shape[0], self.shape[1:], self.dtype, max_in_memory=MAX_IN_MEMORY)
        for start in range(0, self.shape[0], step) if row_bytes else ():
            count = min(step, self.shape[0] - start)
            block = stream.read(count * row_bytes)
            builder.append(np.frombuffer(block, self.dtype).reshape(count, *self.shape[1:]))
        if stream.read(1):  # reaching the end compares the CRC-32
            raise ValueError("it has more values than its shape says")
        return builder.finish()

    def _check_crc(self) -> None:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            while stream.read(BLOCK_BYTES):
                pass


class StoredRows:
    """Rows of an array that is stored uncompressed in a file, read as needed.

    Args:
        path: The file.
        name: Name of the file and the array, for messages.
        offset: Position of the first value in the file.
        shape: Shape of the array, in row-major order.
        dtype: Dtype of the array.
    """

    def __init__(self, path: Path, name: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self._name = name
        self._offset = offset
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if len(rows) == 0:
            return out
        order = np.argsort(rows, kind="stable")
        for positions in np.split(order, np.flatnonzero(np.diff(rows[order]) > MAX_GAP) + 1):
            first, last = int(rows[positions[0]]), int(rows[positions[-1]])
            out[positions] = self._read(first, last + 1)[rows[positions] - first]
        return out

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        buffer = bytearray((stop - start) * self._row_bytes)
        view, position = memoryview(buffer), self._offset + start * self._row_bytes
        while view:
            with _reading(self._name):
                count = os.preadv(self._file, [view], position)
            if count == 0:
                raise InvalidData(f"{self._name}, row {start}: the file ends before it; it was truncated while in use")
            view, position = view[count:], position + count
        return np.frombuffer(buffer, self.dtype).reshape(stop - start, *self.shape[1:])


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Raise InvalidData for what zipfile, NumPy and the operating system raise while a file is read."""
    try:
        yield
    except InvalidData:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError, MemoryError) as error:
        raise InvalidData(
            f"{name}: cannot be read as npz: {error}. Is the file complete? Write it with numpy.savez"
        ) from error


def _open_member(path: Path, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NpzArray:
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        header_bytes = stream.tell()
    if not dtype.hasobject and header_bytes + math.prod(shape) * dtype.itemsize != info.file_size:
        raise ValueError(f"{info.filename} has {info.file_size} bytes, which is not what its shape {shape} needs")
    offset = None
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            local = file.read(LOCAL_HEADER)
        names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        offset = info.header_offset + LOCAL_HEADER + names + header_bytes
    member = f"{name}, array {info.filename.removesuffix('.npy')!r}"
    return NpzArray(path, member, info.filename, shape, dtype, fortran, header_bytes, offset)


def _open(request: OpenRequest) -> Source:
    return request.source(open_npz(request.path, request.spec))


KIND = DataKind(name="npz", suffixes=(".npz",), open=_open)
