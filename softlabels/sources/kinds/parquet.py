"""Parquet files: decoded by row group, as needed.

The file is read, not mapped: a file that is truncated while it is in use ends in an error and not in a SIGBUS.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest, reading
from softlabels.sources.tables import BlockTable


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

    def read_group(group: int, columns: list[str]) -> pa.Table:
        """Return columns of one row group."""
        # A name selects nested columns with the same path as well ("a.b"), hence the second selection.
        return file.read_row_group(group, columns=columns, use_threads=False).select(columns)

    return BlockTable(name, file.schema_arrow, rows, read_group, (open_parquet, (path, name)))


def _open(request: OpenRequest) -> Source:
    return request.source(open_parquet(request.path, request.spec))


KIND = DataKind(name="Parquet", suffixes=(".parquet",), open=_open)
