"""Rows of files by number, as Arrow tables, in bounded memory.

Parquet is read by row group and Arrow IPC files by record batch from a memory map, with the last few kept (256 MiB);
CSV and JSON lines hold no index, so they are read into memory once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from softlabels.errors import InvalidData

CACHE_BYTES = 256 * 2**20


class BlockReader:
    """Rows of a file that comes in blocks.

    Args:
        where: the file, for messages.
        schema: its columns.
        block_rows: rows of each block.
        read_block: (block number, column names) -> the block's table.
    """

    def __init__(
        self,
        where: str,
        schema: pa.Schema,
        block_rows: list[int],
        read_block: Callable[[int, list[str]], pa.Table],
    ) -> None:
        self.where = where
        self.schema = schema
        self.starts = np.concatenate([[0], np.cumsum(block_rows, dtype=np.int64)]).astype(np.int64)
        self._read_block = read_block
        self._cache: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[[Path], BlockReader], tuple[Path]]:
        """Another process opens the file itself."""
        return open_reader, (Path(self.where),)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def blocks(self, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """Each block with the number of its first row, in order."""
        for block in range(len(self.starts) - 1):
            if self.starts[block + 1] > self.starts[block]:
                yield int(self.starts[block]), self.block(block, columns)

    def block(self, block: int, columns: list[str]) -> pa.Table:
        """One block, from the cache where it is there."""
        name = (block, tuple(columns))
        with self._lock:  # a loader reads on a thread of its own
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
            try:
                table = self._read_block(block, columns)
            except (pa.ArrowException, OSError) as error:
                raise InvalidData(f"{self.where} cannot be read: {error}. Is the file whole?") from error
            self._cache[name] = table
            while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
            return table

    def take(self, rows: NDArray[np.int64], columns: list[str]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """The rows asked for, block by block: positions in ``rows``, and the table of those rows."""
        blocks = np.searchsorted(self.starts, rows, side="right") - 1
        for block in np.unique(blocks):
            positions = np.flatnonzero(blocks == block)
            local = rows[positions] - self.starts[block]
            table = self.block(int(block), columns)
            if len(local) and np.array_equal(local, np.arange(local[0], local[0] + len(local))):
                yield positions, table.slice(int(local[0]), len(local))
            else:
                yield positions, table.take(pa.array(local))


def open_reader(path: Path) -> BlockReader:
    """A reader of ``path`` by its extension.

    Raises:
        InvalidData: the file is not what its extension says, or is damaged.
    """
    opener = OPENERS[path.suffix.lower()]
    try:
        return opener(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidData(f"{path} cannot be read as {path.suffix[1:]}: {error}. Is the file whole?") from error


def _open_parquet(path: Path) -> BlockReader:
    # One thread and no read-ahead: Arrow's thread pools may abort the process when it exits soon after.
    file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return BlockReader(
        str(path),
        file.schema_arrow,
        rows,
        lambda block, columns: file.read_row_group(block, columns=columns, use_threads=False),
    )


def _open_ipc(path: Path) -> BlockReader:
    """An Arrow IPC file; a stream (no footer) is read into memory."""
    memory = pa.memory_map(str(path))
    try:
        file = pa.ipc.open_file(memory)
    except pa.ArrowInvalid:
        memory.seek(0)
        return _whole(path, pa.ipc.open_stream(memory).read_all())
    rows = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
    return BlockReader(
        str(path),
        file.schema,
        rows,
        lambda block, columns: pa.Table.from_batches([file.get_batch(block)]).select(columns),
    )


def _open_csv(path: Path) -> BlockReader:
    return _whole(path, pyarrow.csv.read_csv(path, read_options=pyarrow.csv.ReadOptions(use_threads=False)))


def _open_json_lines(path: Path) -> BlockReader:
    return _whole(path, pyarrow.json.read_json(path, read_options=pyarrow.json.ReadOptions(use_threads=False)))


def _whole(path: Path, table: pa.Table) -> BlockReader:
    combined = table.combine_chunks()
    return BlockReader(str(path), table.schema, [len(table)], lambda _, columns: combined.select(columns))


OPENERS: dict[str, Callable[[Path], BlockReader]] = {
    ".parquet": _open_parquet,
    ".csv": _open_csv,
    ".jsonl": _open_json_lines,
    ".arrow": _open_ipc,
    ".feather": _open_ipc,
}
