"""Reading one committed unit: its record, its chunks, its extras, each verified before it is decoded.

Order of the checks (docs/FORMAT.md, section 8): length, BLAKE3, decompression to exactly the declared size, values.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.columns import Column
from softlabels.errors import ShardMissing
from softlabels.store.format import array_file, paths
from softlabels.store.format.descriptor import LENGTH, Descriptor
from softlabels.store.format.record import Range, Record
from softlabels.store.shards.registry import shard_format
from softlabels.store.storage.read_errors import REPAIR, read_errors
from softlabels.store.storage.storage import Storage

MAX_SCRATCH_BYTES = 2**24
"""Memory of larger chunks is freed at once."""

CHECKED_VALUES = 2**20
"""Values checked at a time, rows padded to the longest of them."""

_THREAD = threading.local()


class UnitReader:
    """Reads chunks of one unit. Holds no open file, so it may be shared between threads and pickled.

    Args:
        storage: Storage of the store.
        descriptor: Descriptor of the store.
        record: Record of the unit.

    Attributes:
        record: Record of the unit.
        name: Name of the shard in the store.
    """

    def __init__(self, storage: Storage, descriptor: Descriptor, record: Record) -> None:
        self.record = record
        self._storage = storage
        self._descriptor = descriptor
        self._columns = descriptor.columns()
        self._encodings = {name: descriptor.encoding(name) for name in descriptor.heads}
        self._chunks = shard_format(descriptor.shard_format).open_reader(descriptor, record.chunks)
        self.name = paths.shard_path(record.unit, record.attempt, descriptor.shard_format)

    def read_chunk(
        self,
        number: int,
        columns: Iterable[str] | None = None,
        *,
        out: ragged.Buffers | None = None,
        check: bool = True,
    ) -> dict[str, NDArray[Any]]:
        """Return columns of a chunk, (rows, *shape) each, (entries, *shape) of ragged ones.

        Columns that count the entries of others are returned with them.

        Args:
            number: Number of the chunk within the unit.
            columns: Names of the columns; None: all columns.
            out: Buffers to decode into: chunk_rows entries for a plain column, any number for a ragged one. Plain
                columns are returned as views of their buffers; ragged ones are, if their buffers are large enough.
            check: If True, check the values too, of heads whose columns are all read. Bytes are always verified.

        Raises:
            ShardMissing: The shard is gone.
            StoreCorrupt: Other bytes than were committed, or values that no encoder writes.
        """
        names = list(self._columns if columns is None else columns)
        with read_errors(self._storage.locate(self.name), REPAIR, ShardMissing, f", chunk {number}"):
            if self._chunks.needs_footer:
                self._chunks.set_footer(bytes(self._verified(self.record.footer)))
            needed = ragged.with_counts(names, self._columns)
            arrays = self._chunks.read(self._verified(self.record.chunks[number]), number, needed, out)
            if check:
                self._check(arrays)
            return arrays

    def _verified(self, extent: Range) -> memoryview:
        """Return the bytes of a range, verified; they are valid until this thread reads again."""
        data = _scratch(extent.size)
        self._storage.read_verified(self.name, extent.offset, data, of=self.record.size, digest=extent.blake3)
        return data

    def read_extras(self) -> dict[str, NDArray[Any]]:
        """Return the arrays beside the shard, read-only; none if the unit has none.

        Raises:
            StoreCorrupt: The file is missing or damaged.
        """
        if self.record.extras is None:
            return {}
        size, digest = self.record.extras
        name = paths.extras_path(self.record.unit, self.record.attempt)
        return array_file.read(self._storage, name, digest, REPAIR, limit=size, writable=False)

    def _check(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Raise ValueError for values that no encoder writes, in every head that was read completely."""
        lengths = {}
        for name, head in self._descriptor.heads.items():
            arrays = head_arrays(columns, name)
            length = arrays.pop(LENGTH, None)
            if length is not None:
                lengths[name] = length
            schema = self._encodings[name].columns(head)
            if set(arrays) == set(schema):
                ends = ragged.bounds(arrays, schema)
                for start, stop in _blocks(arrays, schema):
                    self._encodings[name].check(ragged.cut(arrays, schema, start, stop, ends), head)
        if self._descriptor.inputs is not None:
            self._descriptor.inputs.check(columns, lengths)


def _blocks(arrays: ragged.Rows, schema: Mapping[str, Column]) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows to check together: checking widens values, and pads rows to the longest of them."""
    counting = dict.fromkeys(column.per for column in schema.values() if column.per is not None)
    plain = [name for name, column in schema.items() if column.per is None]
    rows = len(arrays[plain[0]])
    if not counting:
        step = max(1, CHECKED_VALUES // sum(math.prod(schema[name].shape) for name in plain))
        yield from ((start, min(start + step, rows)) for start in range(0, rows, step))
        return
    start = 0
    while start < rows:
        counts = sum(_padded(arrays[name][start : start + CHECKED_VALUES]) for name in counting)
        longest = np.maximum.accumulate(counts)
        fits = int((longest * np.arange(1, len(longest) + 1) <= CHECKED_VALUES).sum())
        yield start, start + max(1, fits)
        start += max(1, fits)


def _padded(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the entries of each row, (n,), once its positions are padded to the longest of them."""
    of_rows = counts.reshape(len(counts), -1)
    return np.asarray(of_rows.max(axis=1).astype(np.int64) * of_rows.shape[1])


def _scratch(size: int) -> memoryview:
    """Return memory that this thread uses again: fresh pages for every chunk cost more than its hash."""
    buffer: bytearray | None = getattr(_THREAD, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = bytearray(size)
        if size <= MAX_SCRATCH_BYTES:
            _THREAD.buffer = buffer
    return memoryview(buffer)[:size]


def head_arrays(columns: Mapping[str, NDArray[Any]], head: str) -> dict[str, NDArray[Any]]:
    """Return the columns of one head, by their names without that of the head.

    Args:
        columns: Columns by full name.
        head: Name of the output.
    """
    prefix = f"{head}/"
    return {name.removeprefix(prefix): array for name, array in columns.items() if name.startswith(prefix)}


def native(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in this machine's byte order and in C order, as torch needs it; the same one if it is so."""
    if array.dtype.isnative and array.flags.c_contiguous:
        return array
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
