"""Parquet files: decoded by row group, as needed.

The memory of a row group is bounded by the size of the file (expansion.py). The file is read and not mapped: a file
that is truncated while it is in use ends in an error and not in a SIGBUS.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from softlabels.sources.expansion import check_expansion
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest, reading
from softlabels.sources.tables import BlockTable

VARIABLE_ROWS = 64
"""Rows decoded at a time if values differ in size, so that their memory is known before all of them are decoded."""


def open_parquet(path: Path, name: str) -> BlockTable:
    """Return the rows of a Parquet file.

    Args:
        path: The file.
        name: Its name in messages.

    Raises:
        InvalidData: The file is no Parquet file, or is damaged.
    """
    with reading(name, "Parquet"):
        # One thread and no read-ahead: Arrow's thread pools may abort the process when it exits soon after.
        file = pq.ParquetFile(path, memory_map=False, pre_buffer=False)
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    schema, size = file.schema_arrow, path.stat().st_size

    def read_group(group: int, columns: list[str]) -> pa.Table:
        """Return columns of one row group."""
        types = [schema.field(column).type for column in columns]
        values = _values(file.metadata.row_group(group))
        claimed = sum(values.get(column, 0) * _leaf_width(kind) for column, kind in zip(columns, types, strict=True))
        check_expansion(int(claimed), size, name, f"row group {group}")
        batch_rows = max(1, rows[group] if all(map(_is_fixed, types)) else VARIABLE_ROWS)
        batches: list[pa.RecordBatch] = []
        decoded = 0
        for batch in file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False):
            decoded += batch.nbytes
            check_expansion(decoded, size, name, f"row group {group}")
            batches.append(batch)
        if not batches:
            return file.read_row_group(group, columns=columns, use_threads=False).select(columns)
        # A name selects nested columns with the same path as well ("a.b"), hence the second selection.
        return pa.Table.from_batches(batches).select(columns)

    return BlockTable(name, schema, rows, read_group, (open_parquet, (path, name)))


def _values(group: pq.RowGroupMetaData) -> dict[str, int]:
    """Return the values of each column that a row group claims to have, of a list all of its items."""
    columns = [group.column(number) for number in range(group.num_columns)]
    values: dict[str, int] = {}
    for column in columns:
        name = column.path_in_schema.partition(".")[0]
        values[name] = max(values.get(name, 0), column.num_values)
    return values


def _is_fixed(kind: pa.DataType) -> bool:
    """Return True if all values of a type take the same memory."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return False
    return _is_fixed(kind.value_type) if pa.types.is_fixed_size_list(kind) else _leaf_width(kind) > 0


def _leaf_width(kind: pa.DataType) -> float:
    """Return the bytes of an item of a list, or of a value of another type; 0 if values differ in size."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaf_width(kind.value_type)
    try:
        return float(kind.bit_width / 8)
    except ValueError:
        return 0.0


def _open(request: OpenRequest) -> Source:
    return request.source(open_parquet(request.path, request.spec))


KIND = DataKind(name="Parquet", suffixes=(".parquet",), open=_open)
