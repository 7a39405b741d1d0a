"""Parquet files: decoded by row group, as needed.

The memory of a row group is bounded by the size of the file (expansion.py), whatever the footer and the pages claim
(parquet_pages.py). The file is read and not mapped: a file that is truncated while it is in use ends in an error and
not in a SIGBUS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softlabels.errors import InvalidData
from softlabels.sources.expansion import check_expansion, limit_of
from softlabels.sources.kinds.parquet_pages import PageSizes, page_sizes
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest, reading
from softlabels.sources.tables import BlockTable

VARIABLE_ROWS = 64
"""Rows decoded at a time if values differ in size, so that their memory is known before all of them are decoded."""
LEVEL_BYTES = 2
"""Bytes that an item of a list counts at least: Arrow needs 4 for the levels of each in the rows decoded at a time."""


def open_parquet(path: Path, name: str) -> BlockTable:
    """Return the rows of a Parquet file.

    Args:
        path: The file.
        name: Its name in messages.

    Raises:
        InvalidData: The file is no Parquet file, or is damaged.
    """
    with reading(name, "Parquet"):
        file = _File(path, name)
    return BlockTable(name, file.schema, file.rows, file.read_group, (open_parquet, (path, name)))


class _File:
    """An open Parquet file whose row groups are read in bounded memory."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self._source = pa.OSFile(str(path))
        self._size = self._source.size()
        self._file = self._opened([])
        groups = range(self._file.num_row_groups)
        self.rows = [self._file.metadata.row_group(group).num_rows for group in groups]
        self.schema = self._file.schema_arrow
        self._leaves = [(field.name, kind) for field in self.schema for kind in _leaf_types(field.type)]

    def read_group(self, group: int, columns: list[str]) -> pa.Table:
        """Return columns of one row group.

        Raises:
            InvalidData: The row group takes too much memory, or a header is damaged.
        """
        block = f"row group {group}"
        try:
            plan = self._plan(group, columns)
        except ValueError as error:
            raise InvalidData(
                f"{self._name}: cannot be read as Parquet: {error} in {block}. Is the file complete?"
            ) from (None)
        check_expansion(plan.size, self._size, self._name, block)
        file = self._opened(plan.dictionaries) if plan.dictionaries else self._file
        types = pa.schema([self.schema.field(column) for column in columns])
        batches: list[pa.RecordBatch] = []
        decoded = 0
        for batch in file.iter_batches(plan.batch_rows, row_groups=[group], columns=columns, use_threads=False):
            decoded += sum(map(_plain_bytes, batch.columns))
            check_expansion(decoded, self._size, self._name, block)
            # A name selects nested columns with the same path as well ("a.b"), hence the selection.
            selected = batch.select(columns)
            batches.append(selected.cast(types) if plan.dictionaries else selected)
        if not batches:
            return self._file.read_row_group(group, columns=columns, use_threads=False).select(columns)
        return pa.Table.from_batches(batches)

    def _opened(self, dictionaries: list[str]) -> pq.ParquetFile:
        # One thread and no read-ahead: Arrow's thread pools may abort the process when it exits soon after.
        return pq.ParquetFile(self._source, pre_buffer=False, read_dictionary=dictionaries)

    def _plan(self, group: int, columns: list[str]) -> _Plan:
        """Return the way to read columns of a row group; ValueError if a header is damaged."""
        plan, limit = _Plan(batch_rows=self.rows[group]), limit_of(self._size)
        description = self._file.metadata.row_group(group)
        for index, (column, kind) in enumerate(self._leaves):
            if column in columns:
                sizes, leaf = page_sizes(self._source, description.column(index)), self._file.schema.column(index)
                plan.add(sizes, kind, limit, path=leaf.path, is_list=leaf.max_repetition_level > 0)
        return plan


@dataclass
class _Plan:
    """The way to read a row group in bounded memory.

    Attributes:
        batch_rows: Rows to decode at a time.
        size: Bytes that the row group takes at least, or may take in one batch.
        dictionaries: Paths of texts that stand in a dictionary and may take too much memory outside of it.
    """

    batch_rows: int
    size: int = 0
    dictionaries: list[str] = field(default_factory=list)

    def add(self, sizes: PageSizes, kind: pa.DataType, limit: int, *, path: str, is_list: bool) -> None:
        """Take account of a column of Parquet, a leaf of the schema."""
        width = _width(kind)
        in_one_batch = sizes.plain + sizes.continued if is_list and not width else 0
        values = sizes.values * (max(width, LEVEL_BYTES) if is_list else width)
        self.size += max(sizes.largest, in_one_batch, int(values))
        if is_list or not width:
            self.batch_rows = min(self.batch_rows, VARIABLE_ROWS)
        if not width and is_list and sizes.coded > limit:
            self.dictionaries.append(path)
        elif not width and sizes.entry:
            self.batch_rows = min(self.batch_rows, limit // sizes.entry)
        self.batch_rows = max(1, self.batch_rows)


def _leaf_types(kind: pa.DataType) -> Iterator[pa.DataType]:
    """Yield the types of the columns that Parquet stores for a type, in their order."""
    if isinstance(kind, pa.BaseExtensionType):
        yield from _leaf_types(kind.storage_type)
    elif kind.num_fields and not pa.types.is_union(kind):
        for number in range(kind.num_fields):
            yield from _leaf_types(kind.field(number).type)
    else:
        yield kind


def _width(kind: pa.DataType) -> float:
    """Return the bytes of a value; 0 if values differ in size."""
    try:
        return float(kind.bit_width / 8)
    except ValueError:
        return 0.0


def _plain_bytes(array: pa.Array) -> int:
    """Return the bytes of an array outside of dictionaries."""
    kind: Any = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        return int(array.nbytes + (pc.sum(lengths.take(array.indices)).as_py() or 0))
    if pa.types.is_struct(kind):
        return sum(map(_plain_bytes, array.flatten()))
    if pa.types.is_map(kind):
        return int(4 * len(array)) + _plain_bytes(array.keys) + _plain_bytes(array.items)
    if pa.types.is_list(kind):
        return int(4 * len(array)) + _plain_bytes(array.flatten())
    return int(array.nbytes)


def _open(request: OpenRequest) -> Source:
    return request.source(open_parquet(request.path, request.spec))


KIND = DataKind(name="Parquet", suffixes=(".parquet",), open=_open)
