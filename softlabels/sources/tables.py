"""Tables: rows of named columns by number, as Arrow tables of plain types, in bounded memory.

A file that comes in blocks (Parquet row groups, Arrow record batches) is decoded one block at a time; the last few
decoded blocks stay in a cache of 256 MiB. Everything else is a table in memory.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.columns import to_arrow
from softlabels.errors import InvalidData
from softlabels.lru import LruCache
from softlabels.sources.arrow_types import plain_table

CACHE_BYTES = 256 * 2**20


class Table(Protocol):
    """Rows of named columns by number.

    Attributes:
        name: Name of the data, for messages.
        schema: Names and types of the columns.
        decoded_rows: Rows of all blocks decoded so far, also repeatedly; 0 for a table in memory.
    """

    name: str
    schema: pa.Schema
    decoded_rows: int

    def __len__(self) -> int:
        """Return the number of rows."""

    def select(self, columns: Sequence[str]) -> Table:
        """Return the table restricted to ``columns``; memory of the others is freed."""

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return ``columns`` of ``rows``, in that order, with plain types.

        Raises:
            InvalidData: The data cannot be read, for example because the file was truncated.
        """


class MemoryTable:
    """A table in memory.

    Args:
        name: Name of the data, for messages.
        table: Its rows.
        reopen: Function and arguments that make the same table in another process; None to send the rows themselves.

    Example:
        >>> table = MemoryTable("table", pa.table({"a": [1, 2, 3]}))
        >>> table.read(np.array([2, 0]), ["a"])["a"].to_pylist()
        [3, 1]
    """

    def __init__(
        self, name: str, table: pa.Table, reopen: tuple[Callable[..., Table], tuple[Any, ...]] | None = None
    ) -> None:
        self.name = name
        self.schema = table.schema
        self.decoded_rows = 0
        self._table = table
        self._reopen = reopen

    def __reduce__(self) -> tuple[Callable[..., Table], tuple[Any, ...]]:
        """Pickle a table of a file as the way to read it again."""
        if self._reopen is None:
            return MemoryTable, (self.name, self._table)
        return _reopen_table, (*self._reopen, self.schema.names)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def rows(self) -> pa.Table:
        """All rows, with the types of the file."""
        return self._table

    def select(self, columns: Sequence[str]) -> MemoryTable:
        """Return the table restricted to ``columns``."""
        return MemoryTable(self.name, plain_table(self._table.select(list(columns)), self.name), self._reopen)

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return ``columns`` of ``rows``, in that order, with the types that ``select`` made plain."""
        return take(self._table.select(list(columns)), rows)


def _reopen_table(open_table: Callable[..., Table], arguments: tuple[Any, ...], columns: list[str]) -> Table:
    return open_table(*arguments).select(columns)


def _bytes_of(columns: Mapping[str, pa.ChunkedArray]) -> int:
    return sum(column.nbytes for column in columns.values())


class BlockTable:
    """A table of a file that is decoded block by block.

    Args:
        name: Name of the data, for messages.
        schema: Names and types of the columns.
        block_rows: Number of rows of each block.
        read_block: Function (block number, column names) -> the block's table.
        reopen: Function and arguments that open the same file in another process.
    """

    def __init__(
        self,
        name: str,
        schema: pa.Schema,
        block_rows: Sequence[int],
        read_block: Callable[[int, list[str]], pa.Table],
        reopen: tuple[Callable[..., Table], tuple[Any, ...]],
    ) -> None:
        self.name = name
        self.schema = schema
        self.decoded_rows = 0
        self._starts = np.concatenate([[0], np.cumsum(block_rows, dtype=np.int64)]).astype(np.int64)
        self._read_block = read_block
        self._reopen = reopen
        self._cache: LruCache[int, dict[str, pa.ChunkedArray]] = LruCache(CACHE_BYTES, _bytes_of)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., Table], tuple[Any, ...]]:
        """Pickle as the way to open the file again."""
        return self._reopen

    def __len__(self) -> int:
        return int(self._starts[-1])

    def select(self, columns: Sequence[str]) -> BlockTable:
        """Return the table itself: only columns that are asked for are decoded."""
        return self

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return ``columns`` of ``rows``, in that order."""
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        if len(blocks) == 0:
            return plain_table(self.schema.empty_table().select(list(columns)), self.name)
        if (blocks == blocks[0]).all():
            return take(self._block(int(blocks[0]), list(columns)), rows - self._starts[blocks[0]])
        # Rows are taken block by block, then brought back into the order of ``rows``.
        order = np.argsort(blocks, kind="stable")
        edges = np.flatnonzero(np.diff(blocks[order], prepend=-1, append=-1))
        tables = []
        for first, stop in itertools.pairwise(edges):
            block = int(blocks[order[first]])
            tables.append(take(self._block(block, list(columns)), rows[order[first:stop]] - self._starts[block]))
        joined = pa.concat_tables(tables).combine_chunks()
        return take(joined, np.argsort(order))

    def _block(self, block: int, columns: list[str]) -> pa.Table:
        """Return one decoded block, its columns from the cache if they are there."""
        with self._lock:  # a loader reads on a thread of its own
            held = self._cache.get(block) or {}
            if missing := [name for name in columns if name not in held]:
                held = held | self._decode(block, missing)
                self._cache.put(block, held)
            return pa.table([held[name] for name in columns], names=columns)

    def _decode(self, block: int, columns: list[str]) -> dict[str, pa.ChunkedArray]:
        rows = int(self._starts[block + 1] - self._starts[block])
        try:
            table = plain_table(self._read_block(block, columns), self.name)
        except (pa.ArrowException, OSError) as error:
            raise InvalidData(f"{self.name}: cannot be read: {error}. Is the file complete?") from error
        if len(table) != rows:
            raise InvalidData(
                f"{self.name}, block {block}: the file is damaged, got {len(table)} rows; expected {rows}. "
                "Write the file again"
            )
        self.decoded_rows += rows
        return {name: table.column(name) for name in columns}


def take(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Return rows of a table in the order of ``rows``; consecutive ones without a copy.

    Example:
        >>> take(pa.table({"a": [1, 2, 3]}), np.array([2, 1]))["a"].to_pylist()
        [3, 2]
    """
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return table.slice(int(rows[0]), len(rows))
    return table.take(to_arrow(rows.astype(np.int64)))
