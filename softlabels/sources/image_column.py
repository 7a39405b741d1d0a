"""Columns of images: encoded bytes, structs of bytes and path (Hugging Face), or paths of files.

A row's key is the BLAKE3 of the bytes of its file, so that nothing is decoded to name rows, and a folder, a tar and a
table of the same files have equal keys. Opening reads every file to hash it and to read the size in its header, unless
that was done before; see ``image_cache``.
Images are decoded when their rows are read, on threads, because Pillow releases the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import UnreadableRow
from softlabels.keys import KEY_BYTES
from softlabels.sources.arrow_types import is_binary, is_image_struct, is_text
from softlabels.sources.image_cache import ImageCache, KnownImage, mark_of
from softlabels.sources.image_files import SUFFIXES, Undecodable, decode_image, decode_mask, image_size
from softlabels.store.storage.regular_file import read_regular

FILE_HEADER = b"softlabels key 1\0file\0"
MAX_THREADS = 16
MAX_FILE_BYTES = 2**30
"""Bytes of an encoded image."""

Value = TypeVar("Value")


def is_image_column(column_type: pa.DataType, first: Any = None) -> bool:
    """Return True if a column holds images.

    Args:
        column_type: Type of the column.
        first: Value of its first row, which tells paths from other text; None if it is not known.

    Example:
        >>> is_image_column(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        True
        >>> is_image_column(pa.string(), "photos/1.jpg"), is_image_column(pa.string(), "a cat")
        (True, False)
    """
    if is_text(column_type):
        return isinstance(first, str) and first.lower().endswith(SUFFIXES)
    return is_binary(column_type) or is_image_struct(column_type)


class ImageColumn:
    """A column of encoded images.

    Args:
        name: Name of the data and the column, for messages.
        base: Directory that relative paths start from.
    """

    def __init__(self, name: str, base: Path) -> None:
        self._name = name
        self._base = base

    def keys_and_sizes(
        self, values: pa.Array, cache: ImageCache
    ) -> tuple[NDArray[np.uint8], list[tuple[int, int] | None]]:
        """Return the key of each image, (n, 16), and its height and width; None for an image that cannot be read.

        Args:
            values: (n,) values of the column.
            cache: Files that were read before; new ones are added.
        """
        results = on_threads(lambda _place, value: self._look(value, cache), values.to_pylist())
        keys = np.frombuffer(b"".join(key for key, _ in results), np.uint8).reshape(-1, KEY_BYTES)
        return keys, [size for _, size in results]

    def summaries(self, values: pa.Array) -> list[tuple[int, int, int] | None]:
        """Return height, width and highest class number of each mask; None for one that cannot be read.

        Args:
            values: (n,) values of the column.
        """

        def look(place: int, value: Any) -> tuple[int, int, int] | None:
            try:
                mask = decode_mask(self._encoded(value))
            except Undecodable:
                return None
            return (*mask.shape, int(mask.max(initial=-1)))

        return on_threads(look, values.to_pylist())

    def decode(
        self,
        values: pa.Array,
        rows: NDArray[np.int64],
        change: Callable[[int, Any], Value],
        read: Callable[[bytes], Any] = decode_image,
    ) -> list[Value]:
        """Return a function of each decoded image, computed on threads, so that few images are in memory at once.

        Args:
            values: (n,) values of the column.
            rows: (n,) numbers of the rows, for errors.
            change: Function of the place in ``values`` and the decoded image.
            read: Function that decodes the bytes of a file.

        Raises:
            UnreadableRow: Images cannot be read; has the numbers of all such rows.
        """

        def work(place: int, value: Any) -> Value | Undecodable:
            try:
                image = read(self._encoded(value))
            except Undecodable as error:
                return error
            return change(place, image)

        results = on_threads(work, values.to_pylist())
        bad = [place for place, result in enumerate(results) if isinstance(result, Undecodable)]
        if bad:
            raise self._unreadable(values, rows, bad, str(results[bad[0]]))
        return [result for result in results if not isinstance(result, Undecodable)]

    def describe(self, value: Any) -> str:
        """Return the file that a value names, for messages; empty if it has no name."""
        path = value.get("path") if isinstance(value, dict) else value
        return f" ({path})" if isinstance(path, str) else ""

    def _unreadable(self, values: pa.Array, rows: NDArray[np.int64], bad: Sequence[int], reason: str) -> UnreadableRow:
        first = bad[0]
        others = len(bad) - 1
        more = "" if not others else f", and {others} more {'row' if others == 1 else 'rows'}"
        file = self.describe(values[first].as_py())
        return UnreadableRow.of(
            f"{self._name}, row {rows[first]}{file}: the image cannot be read{more}: {reason}. Replace or remove the "
            "file, or skip such rows with softlabels generate --skip-bad N",
            rows[bad],
            f"{file.strip(' ()')}: {reason}" if file else reason,
        )

    def _look(self, value: Any, cache: ImageCache) -> KnownImage:
        """Return the key and the size of an image; its file is read if it is not in the cache."""
        path = _path_of(value)
        status = None
        if path is not None:
            with contextlib.suppress(OSError, ValueError):
                status = (self._base / path).stat()
        known = None if status is None else cache.find(mark_of(status))
        if known is not None:
            return known
        try:
            data = self._encoded(value)
        except Undecodable as error:
            return KnownImage(blake3(FILE_HEADER + b"missing\0" + str(error).encode()).digest(KEY_BYTES), None)
        hasher = blake3(FILE_HEADER)
        hasher.update(data)
        size = None
        with contextlib.suppress(Undecodable):
            size = image_size(data)
        image = KnownImage(hasher.digest(KEY_BYTES), size)
        if status is not None and cache.takes(status):
            cache.add(mark_of(status), image, len(data))
        return image

    def _encoded(self, value: Any) -> bytes:
        """Return the bytes of an image.

        Raises:
            Undecodable: There are none, or the file cannot be read.
        """
        path = _path_of(value)
        if path is not None:
            return _read_file(self._base / path)
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise Undecodable("the value is null")
        return bytes(data)


def _path_of(value: Any) -> str | None:
    """Return the path of the file that a value names; None if it holds the bytes of the file, or nothing."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, dict) and data is None:
        data = value.get("path")
    return data if isinstance(data, str) else None


def on_threads(work: Callable[[int, Any], Value], values: Sequence[Any]) -> list[Value]:
    """Return the results of ``work`` for each place and value, in order, computed on as many threads as cores.

    Args:
        work: Function of place and value.
        values: Values.
    """
    if len(values) == 1:
        return [work(0, values[0])]
    return list(_pool(os.getpid()).map(work, range(len(values)), values))


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; one that was forked has its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, MAX_THREADS), thread_name_prefix="softlabels-images")


def _read_file(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise Undecodable(str(getattr(error, "strerror", None) or error)) from error
