"""WebDataset tars: files with one name and several ends are a row, as in ``0001.jpg``, ``0001.cls``, ``0001.seg.png``.

A picture (``jpg``, ``png``, ``webp``, ...) is the column ``image``, and an image with another word before its end is a
column of that word (``seg.png`` is ``seg``). ``cls`` is ``label``. Fields of ``json`` objects are columns of their
names, ``txt`` is text, ``npy`` an array of numbers. A folder of tars is read as one dataset, in the order of their
names. Opening reads the headers of all members and the small files; images and arrays are read as needed.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.arrow_types import plain_table
from softlabels.sources.image_files import SUFFIXES
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest

IMAGE_ENDS = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
IMAGE_TYPE = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
MAX_SMALL_BYTES = 2**20
"""Bytes of a file that is read when the tar is opened."""


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        path: The tar.
        name: Name of the file.
        offset: Position of its first byte.
        size: Bytes of the file.
    """

    path: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            InvalidData: The tar ends before them.
        """
        try:
            with self.path.open("rb") as file:
                data = os.pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            raise InvalidData(f"{self.path}: cannot be read: {error}") from error
        if len(data) < self.size:
            raise InvalidData(f"{self.path}, file {self.name}: the tar ends before it. Is the file complete?")
        return data


class TarTable:
    """A table over the rows of tars; see Table for the methods.

    Args:
        paths: The tars, in their order.
        name: Name of the data in messages.
    """

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self.name = name
        self.decoded_rows = 0
        self._paths = list(paths)
        self._rows = [row for path in paths for row in _rows_of(path, name)]
        columns = dict.fromkeys(column for row in self._rows for column in row)
        self._small: dict[str, pa.Array] = {}
        self._lazy: dict[str, tuple[pa.DataType, Callable[[Member], Any]]] = {}
        for column in columns:
            self._add(column)
        fields = [(column, kind) for column, (kind, _) in self._lazy.items()]
        self.schema = pa.schema([*fields, *((column, values.type) for column, values in self._small.items())])

    def __reduce__(self) -> tuple[type[TarTable], tuple[list[Path], str]]:
        """Pickle as the way to open the tars again."""
        return TarTable, (self._paths, self.name)

    def __len__(self) -> int:
        return len(self._rows)

    def select(self, columns: Sequence[str]) -> TarTable:
        """Return the table itself: only columns that are asked for are read."""
        return self

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return ``columns`` of ``rows``, in that order.

        Raises:
            InvalidData: A tar is truncated, or an array cannot be read.
        """
        return plain_table(pa.table([self._column(column, rows) for column in columns], names=list(columns)), self.name)

    def _column(self, column: str, rows: NDArray[np.int64]) -> pa.Array:
        if column in self._small:
            return self._small[column].take(pa.array(rows))
        kind, read = self._lazy[column]
        members = [self._rows[int(row)].get(column) for row in rows]
        return pa.array([None if member is None else read(member) for member in members], kind)

    def _add(self, column: str) -> None:
        """Add a column, or the fields of JSON objects as columns."""
        members = [row.get(column) for row in self._rows]
        first = next(member for member in members if member is not None)
        end = first.name.rpartition(".")[2].lower()
        if end in IMAGE_ENDS:
            self._lazy[column] = IMAGE_TYPE, lambda member: {"bytes": member.read(), "path": member.name}
        elif end == "npy":
            self._lazy[column] = pa.array([self._array(first)]).type, self._array
        elif end == "json":
            objects = [None if member is None else self._object(member) for member in members]
            for name in dict.fromkeys(key for value in objects for key in value or {}):
                self._put(name, [None if value is None else value.get(name) for value in objects])
        elif end in {"cls", "txt"}:
            texts = [None if member is None else self._text(member).strip() for member in members]
            if all(text is None or text.isdecimal() for text in texts):
                self._put("label" if column == "cls" else column, [None if t is None else int(t) for t in texts])
            else:
                self._put("label" if column == "cls" else column, texts)

    def _put(self, column: str, values: list[Any]) -> None:
        try:
            self._small.setdefault(column, pa.array(values))
        except (pa.ArrowException, OverflowError) as error:
            raise InvalidData(f"{self.name}, column {column!r}: values of several types: {error}") from error

    def _text(self, member: Member) -> str:
        if member.size > MAX_SMALL_BYTES:
            raise InvalidData(
                f"{self.name}, file {member.name}: too large, got {member.size:,} bytes; expected a label"
            )
        try:
            return member.read().decode()
        except UnicodeDecodeError as error:
            raise InvalidData(f"{self.name}, file {member.name}: not UTF-8: {error}") from error

    def _object(self, member: Member) -> dict[str, Any]:
        try:
            value = json.loads(self._text(member))
        except (ValueError, RecursionError) as error:
            raise InvalidData(f"{self.name}, file {member.name}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidData(f"{self.name}, file {member.name}: expected a JSON object, got {type(value).__name__}")
        return value

    def _array(self, member: Member) -> Any:
        try:
            return np.lib.format.read_array(io.BytesIO(member.read()), allow_pickle=False).tolist()
        except (ValueError, EOFError, MemoryError) as error:
            raise InvalidData(f"{self.name}, file {member.name}: not an array of numbers: {error}") from error


def _rows_of(path: Path, name: str) -> Iterator[dict[str, Member]]:
    """Yield the files of each row of a tar by column."""
    rows: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                folder, _, file = info.name.rpartition("/")
                stem, _, end = file.partition(".")
                if not info.isreg() or info.issparse() or not stem or not end:
                    continue
                row = rows.setdefault(f"{folder}/{stem}", {})
                column = _column_of(end.lower())
                if column in row:
                    raise InvalidData(
                        f"{name}, file {info.name}: a row has two files of column {column!r}; expected one"
                    )
                row[column] = Member(path, info.name, info.offset_data, info.size)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidData):
            raise
        raise InvalidData(
            f"{name}: cannot be read as tar: {error}. Is {path.name} complete and uncompressed?"
        ) from error
    yield from rows.values()


def _column_of(end: str) -> str:
    """Return the column of the ends of a name: ``image`` for ``jpg``, ``seg`` for ``seg.png``."""
    word, _, last = end.rpartition(".")
    if last not in IMAGE_ENDS:
        return end
    return word or "image"


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".tar" and path.is_file())


def _open(request: OpenRequest) -> Source:
    paths = _tars(request.path) if request.path.is_dir() else [request.path]
    return request.source(TarTable(paths, request.spec))


KIND = DataKind(name="WebDataset", suffixes=(".tar",), open=_open, holds=lambda folder: bool(_tars(folder)))
