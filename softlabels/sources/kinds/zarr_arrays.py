"""Zarr groups: arrays of rows along the first axis, read by chunk as needed.

Codecs are checked before anything is read: one of them, pickle, would run code of the file.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.arrays import ArrayTable
from softlabels.sources.expansion import check_expansion
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest

FILES = ("zarr.json", ".zgroup", ".zarray")
CODECS = {
    "blosc", "zstd", "gzip", "zlib", "lz4", "lzma", "bz2", "bytes", "transpose", "crc32c", "crc32", "adler32",
    "shuffle", "delta", "sharding_indexed", "bitround", "packbits", "fixedscaleoffset", "quantize", "numcodecs.shuffle",
    "numcodecs.delta", "numcodecs.lz4", "numcodecs.zstd", "numcodecs.zlib", "numcodecs.blosc",
}  # fmt: skip
"""Codecs of numbers that only compute."""


@dataclass
class ZarrRows:
    """Rows of an array of a Zarr group.

    Attributes:
        path: Directory of the group.
        name: Name of the array, empty for an array without a group.
        shape: Shape of the array.
        dtype: Dtype of the array.
        label: Name of the data and the array, for messages.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    label: str
    _array: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open array: another process opens its own."""
        return self.__dict__ | {"_array": None}

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        import zarr

        if self._array is None:
            opened: Any = zarr.open(self.path, mode="r")
            self._array = opened[self.name] if self.name else opened
        distinct, places = np.unique(rows, return_inverse=True)
        try:
            values = np.asarray(self._array.oindex[distinct]) if len(distinct) else np.empty((0, *self.shape[1:]))
        except Exception as error:  # codecs raise errors of many kinds
            raise InvalidData(f"{self.label}: cannot be read: {type(error).__name__}: {error}") from error
        return values.astype(self.dtype, copy=False)[places]


def open_zarr(path: Path, name: str) -> ArrayTable:
    """Return the arrays of a Zarr group, or one array, as a table.

    Args:
        path: The directory.
        name: Its name in messages.

    Raises:
        InvalidData: The directory is no Zarr group, or an array needs a codec that is not allowed.
    """
    import zarr

    _check_files(path, name)
    try:
        opened: Any = zarr.open(path, mode="r")
        arrays = {"image": ("", opened)} if isinstance(opened, zarr.Array) else {n: (n, a) for n, a in opened.arrays()}
        return ArrayTable(
            name, {column: _rows(path, name, *entry) for column, entry in arrays.items() if entry[1].shape}
        )
    except InvalidData:
        raise
    except Exception as error:  # metadata of many versions, parsed by a library
        raise InvalidData(
            f"{name}: cannot be read as Zarr: {type(error).__name__}: {error}. Is the directory complete?"
        ) from error


def _rows(path: Path, name: str, array_name: str, array: Any) -> ZarrRows:
    label = f"{name}, array {array_name!r}"
    for codec in _codecs(array.metadata.to_dict()):
        if codec not in CODECS:
            raise InvalidData(
                f"{label}: unsupported codec, got {codec!r}; expected numbers packed by blosc, zstd or gzip"
            )
    dtype = np.dtype(array.dtype)
    # A chunk that is not stored is the fill value, so a shape alone can claim any memory.
    for block, shape in (("a chunk", array.chunks), ("a row", array.shape[1:])):
        check_expansion(math.prod(map(int, shape)) * dtype.itemsize, 0, label, block)
    return ZarrRows(path, array_name, tuple(array.shape), dtype, label)


def _check_files(path: Path, name: str) -> None:
    """Raise InvalidData if the directory holds a FIFO, socket or device, which a reader would wait for."""
    for folder, _, files in os.walk(path):
        for file in files:
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(Path(folder, file).stat().st_mode):
                    raise InvalidData(
                        f"{name}: {folder}/{file} is no regular file; expected a Zarr group. Copy it again"
                    )


def _codecs(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs in the metadata of an array, at any depth."""
    for key in ("compressor", "filters", "codecs", "index_codecs"):
        value = metadata.get(key) if isinstance(metadata, dict) else None
        for codec in value if isinstance(value, list | tuple) else [value] if value is not None else []:
            entry = codec if isinstance(codec, dict) else _as_dict(codec)
            yield str(entry.get("id", entry.get("name"))).lower()
            yield from _codecs(entry.get("configuration"))


def _as_dict(codec: Any) -> dict[str, Any]:
    for method in ("to_dict", "get_config"):
        if hasattr(codec, method):
            value: dict[str, Any] = getattr(codec, method)()
            return value
    return {"name": type(codec).__name__}


def _holds(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def _open(request: OpenRequest) -> Source:
    return request.source(open_zarr(request.path, request.spec))


KIND = DataKind(name="Zarr", open=_open, holds=_holds)
