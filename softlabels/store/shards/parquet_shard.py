"""A shard as Parquet (docs/FORMAT.md, section 4.2): the same columns as lists, one row group a chunk.

Viewers, Polars, DuckDB and the hub read it as it is: no dictionaries, no nulls, page checksums throughout. Here pyarrow
decodes, from bytes whose BLAKE3 has been checked, and only after the footer and every page header say no more than the
descriptor and the record do: a forged page may otherwise declare two gigabytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings import Column
from softlabels.errors import StoreError
from softlabels.store.format import thrift
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.limits import MAX_CHUNK_BYTES, decoded_bytes
from softlabels.store.format.record import Range
from softlabels.store.shards.hashed_file import HashedFile
from softlabels.store.shards.registry import ShardFormat

MAGIC = b"PAR1"
TRAILER = 8
"""Bytes behind the footer's struct: its length and the magic."""
CODECS = {"zstd": ("zstd", 1), "lz4": ("lz4", None)}
"""Compressors a store may use, with the level."""
PACKED_LEVEL = 15
"""Level of packed columns in a store of zstd."""
CODEC_NUMBERS = {"zstd": 6, "lz4": 7}
PLAIN, RLE, BYTE_STREAM_SPLIT = 0, 3, 9
DATA_PAGE = 0
# Fields of parquet.thrift that a store uses; a footer with others is refused.
FOOTER_FIELDS, SCHEMA, ROW_GROUPS = {1, 2, 3, 4, 6, 7}, 2, 4
MAX_NODES = 17
"""Nodes of the schema per column: two for each list within lists, and the leaf."""
COLUMNS, GROUP_ROWS = 1, 3
CHUNK_FIELDS, META = {2, 3}, 3
META_FIELDS = {1, 2, 3, 4, 5, 6, 7, 9, 13, 16}
ENCODINGS, CODEC, VALUES, COMPRESSED, PAGE_OFFSET = 2, 4, 5, 7, 9
PAGE_KIND, PAGE_UNCOMPRESSED, PAGE_COMPRESSED, PAGE_CRC, PAGE_DATA, PAGE_VALUES = 1, 2, 3, 4, 5, 1
MAX_PAGE_VALUES = 64
"""Values in the header of a page."""
KEY_BYTES = 16
LEVEL_BYTES = 2
"""Room that a value's repetition and definition levels may take in a page, generously."""


class ParquetWriter:
    """Writes one shard; see ShardWriter."""

    def __init__(self, sink: HashedFile, descriptor: Descriptor) -> None:
        self._sink = sink
        self._descriptor = descriptor
        self._columns = descriptor.columns()
        self._schema = arrow_schema(self._columns)
        codec, level = CODECS[descriptor.codec]
        self._parquet = pq.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            self._schema,
            version="2.6",
            compression=codec,
            compression_level=level
            if level is None
            else {
                _leaf(name, self._columns): PACKED_LEVEL if column.packed else level
                for name, column in self._columns.items()
            },
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
            store_schema=False,  # it would be Arrow IPC, which no store holds
            # Planes of bytes compress better; DuckDB reads them for all but float16.
            use_byte_stream_split=[_leaf(name, self._columns) for name in self._columns if self._splits(name)],
            data_page_size=2**20,
        )
        self._chunks: list[Range] = []
        self._hashes: list[dict[str, str]] = []

    def _splits(self, name: str) -> bool:
        return np.dtype(self._columns[name].dtype) != np.float16 and name != "key"

    def write_chunk(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """See ShardWriter.write_chunk."""
        arrays = [_to_arrow(columns, self._columns, name) for name in self._columns]
        self._parquet.write_table(pa.table(arrays, schema=self._schema), row_group_size=max(len(columns["key"]), 1))
        self._chunks.append(self._sink.cut(len(columns["key"])))
        self._hashes.append({name: _hash(columns[name]) for name in self._columns})

    def finish(self) -> list[Range]:
        """See ShardWriter.finish."""
        self._parquet.close()
        try:
            self._read_back()
        except ValueError as error:
            raise StoreError(
                f"a new shard does not read back: {error}, so memory, disk or a library is at fault; nothing was "
                "committed: test the machine, and run the same command again"
            ) from None
        return self._chunks

    def _read_back(self) -> None:
        """Raise ValueError unless the shard holds what was given."""
        if not self._chunks:  # of a unit whose rows were all skipped
            return
        end = self._chunks[-1].offset + self._chunks[-1].size
        footer = Footer(
            self._sink.read(end, self._sink.size - end), self._columns, tuple(self._chunks), self._descriptor.codec
        )
        for number, chunk in enumerate(self._chunks):
            result = footer.read_chunk(self._sink.read(chunk.offset, chunk.size), number, list(self._columns))
            for name, expected in self._hashes[number].items():
                if _hash(result[name]) != expected:
                    raise ValueError(f"column {name!r} has other values")


class Footer:
    """The footer of a shard, checked against what the store says, and the reader of its chunks.

    Args:
        data: Verified bytes of the footer.
        columns: Columns of the store by name.
        chunks: Byte ranges of the chunks, from the record.
        codec: Compression of the store.

    Raises:
        ValueError: It does not describe these chunks.
    """

    def __init__(self, data: bytes, columns: Mapping[str, Column], chunks: tuple[Range, ...], codec: str) -> None:
        self._columns = columns
        self._chunks = chunks
        if b"ARROW:schema" in data:
            raise ValueError("the footer holds an Arrow schema, which no store does")
        fields, end = thrift.read_struct(data, 0, _footer_values(len(columns), len(chunks)))
        groups = thrift.structs(fields, ROW_GROUPS)
        if len(groups) != len(chunks) or end != len(data) - TRAILER:
            raise ValueError("the footer describes other chunks than the store has")
        if not fields.keys() <= FOOTER_FIELDS or len(thrift.structs(fields, SCHEMA)) > 1 + MAX_NODES * len(columns):
            raise ValueError("the footer describes more than the columns of the store")
        self._places = [self._check_group(group, chunk, codec) for group, chunk in zip(groups, chunks, strict=True)]
        try:
            limits = {"thrift_string_size_limit": len(data), "thrift_container_size_limit": len(data)}
            file = pq.ParquetFile(pa.BufferReader(MAGIC + data), pre_buffer=False, **limits)
            result = file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"the footer is damaged: {error}") from None
        if not result.equals(arrow_schema(columns)):
            raise ValueError("the footer describes other columns than the store has")
        self._metadata = file.metadata

    def _check_group(self, group: thrift.Struct, chunk: Range, codec: str) -> dict[str, tuple[int, int]]:
        """Return offset and size of each column in the chunk, which they must fill without gaps."""
        offset = len(MAGIC) if chunk.offset == 0 else 0
        columns = thrift.structs(group, COLUMNS)
        if thrift.number(group, GROUP_ROWS) != chunk.rows or len(columns) != len(self._columns):
            raise ValueError("a row group has other rows or columns than its chunk")
        places = {}
        for name, column in zip(self._columns, columns, strict=True):
            meta = thrift.struct(column, META)
            size = thrift.number(meta, COMPRESSED)
            if (
                not column.keys() <= CHUNK_FIELDS
                or not meta.keys() <= META_FIELDS
                or thrift.number(meta, CODEC) != CODEC_NUMBERS[codec]
                or not set(thrift.numbers(meta, ENCODINGS)) <= {PLAIN, RLE, BYTE_STREAM_SPLIT}
                or thrift.number(meta, PAGE_OFFSET) != chunk.offset + offset
                or size <= 0
            ):
                raise ValueError(f"column {name!r} is not stored as a store does")
            places[name] = (offset, size)
            offset += size
        if offset != chunk.size:
            raise ValueError("a row group does not fill its chunk")
        return places

    def read_chunk(self, data: bytes, number: int, names: list[str]) -> dict[str, NDArray[Any]]:
        """Return columns of chunk ``number`` from its verified bytes; see zarr_shard.read_chunk.

        Raises:
            ValueError: Pages are not what a store holds.
        """
        chunk, total = self._chunks[number], 0
        result: dict[str, NDArray[Any]] = {}
        for name in names:
            start, size = self._places[number][name]
            column = self._columns[name]
            entries = chunk.rows if column.per is None else ragged.entries(result, self._columns, name)
            total += decoded_bytes(column, entries, "parquet")
            if total > MAX_CHUNK_BYTES:
                raise ValueError(f"a chunk declares more than {MAX_CHUNK_BYTES:,} bytes up to column {name!r}")
            count = entries if name == "key" else entries * math.prod(column.shape) + self._empty_lists(result, name)
            _check_pages(data[start : start + size], column, count)
            result[name] = self._read(data, number, name, result)
        return result

    def _empty_lists(self, result: Mapping[str, NDArray[Any]], name: str) -> int:
        """Return the number of empty lists in a column of a chunk; each stands in a page as one value."""
        counts = [level for level in _levels(self._columns, name) if isinstance(level, str)]
        return sum(int((result[per] == 0).sum()) for per in counts)

    def _read(self, data: bytes, number: int, name: str, result: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        source = pa.PythonFile(_Window(data, self._chunks[number].offset), mode="r")
        try:
            file = pq.ParquetFile(source, metadata=self._metadata, pre_buffer=False, page_checksum_verification=True)
            table = file.read_row_group(number, columns=[name], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"column {name!r} is damaged: {error}") from None
        return _from_arrow(table.column(0), self._columns, name, result, self._chunks[number].rows)


def _footer_values(columns: int, chunks: int) -> int:
    """Return the most values in the footer of a shard; what Arrow writes has about half as many."""
    return 64 + 96 * columns + chunks * (16 + 48 * columns)


class _Window(io.RawIOBase):
    """A file of which only one range can be read."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._data, self._offset, self._position = memoryview(data), offset, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._offset + len(self._data)}[whence]
        self._position = base + position
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._position - self._offset
        if start < 0:
            raise OSError("a read before the chunk")
        segment = bytes(self._data[start : start + size] if size >= 0 else self._data[start:])
        self._position += len(segment)
        return segment


def arrow_schema(columns: Mapping[str, Column]) -> pa.Schema:
    """Return the Arrow schema of the columns: nothing can be null, shapes and ragged entries are lists."""
    return pa.schema([pa.field(name, _arrow_type(columns, name), nullable=False) for name in columns])


def _arrow_type(columns: Mapping[str, Column], name: str) -> pa.DataType:
    if name == "key":
        return pa.binary(columns[name].shape[0])
    kind = pa.from_numpy_dtype(np.dtype(columns[name].dtype))
    for _ in _levels(columns, name):
        kind = pa.list_(pa.field("element", kind, nullable=False))
    return kind


def _levels(columns: Mapping[str, Column], name: str) -> list[str | int]:
    """Return the levels of lists of a column, outermost first: the length of a dimension, or the column that counts."""
    column = columns[name]
    return [*([] if column.per is None else [*_levels(columns, column.per), column.per]), *column.shape]


def _leaf(name: str, columns: Mapping[str, Column]) -> str:
    """Return the path of a column's values in Parquet."""
    return name + ".list.element" * len(_levels(columns, name))


def _to_arrow(result: Mapping[str, NDArray[Any]], columns: Mapping[str, Column], name: str) -> pa.Array:
    array = np.ascontiguousarray(result[name])
    if name == "key":
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(array), [None, pa.py_buffer(array)])
    values = ragged.to_arrow(array.reshape(-1))
    for level in reversed(_levels(columns, name)):
        if isinstance(level, int):
            values = _list(np.arange(0, len(values) + 1, level), values)
        else:
            values = _list(np.concatenate([[0], np.cumsum(result[level], dtype=np.int64)]), values)
    return values


def _list(offsets: NDArray[np.int64], values: pa.Array) -> pa.Array:
    kind = pa.list_(pa.field("element", values.type, nullable=False))
    return pa.ListArray.from_arrays(ragged.to_arrow(offsets.astype(np.int32)), values, type=kind)


def _from_arrow(
    chunked: pa.ChunkedArray, columns: Mapping[str, Column], name: str, result: Mapping[str, NDArray[Any]], count: int
) -> NDArray[Any]:
    """Return the values of a column as one array, after a check of the lengths of its lists."""
    array = chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)
    column = columns[name]
    if len(array) != count:
        raise ValueError(f"column {name!r} has {len(array):,} rows where {count:,} are expected")
    if name == "key":
        data = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * 16 : (array.offset + count) * 16]
        return data.reshape(count, 16)
    for level in _levels(columns, name):
        lengths = np.diff(ragged.from_arrow(array.offsets, "int32"))
        if (lengths != (level if isinstance(level, int) else result[level].reshape(-1))).any():
            raise ValueError(f"column {name!r} has lists of other lengths than it should")
        array = array.flatten()
    return ragged.from_arrow(array, column.dtype).reshape(-1, *column.shape)


def _check_pages(data: bytes, column: Column, values: int) -> None:
    """Raise ValueError unless the pages in ``data`` say together what they should, and no more."""
    # Parquet has no number of fewer than four bytes but float16.
    width = KEY_BYTES if column.shape == (KEY_BYTES,) else max(4, np.dtype(column.dtype).itemsize)
    seen = offset = 0
    while offset < len(data):
        page, offset = thrift.read_struct(data, offset, MAX_PAGE_VALUES)
        if thrift.number(page, PAGE_KIND) != DATA_PAGE or PAGE_CRC not in page:
            raise ValueError("a page without checksum, or of a kind that no store holds")
        count = thrift.number(thrift.struct(page, PAGE_DATA), PAGE_VALUES)
        full, size = thrift.number(page, PAGE_UNCOMPRESSED), thrift.number(page, PAGE_COMPRESSED)
        if count < 0 or not 0 <= size <= len(data) - offset or not 0 <= full <= count * (width + LEVEL_BYTES) + 1024:
            raise ValueError(f"a page declares {full:,} bytes for {count:,} values")
        seen += count
        offset += size
    if seen != values:
        raise ValueError(f"pages with {seen:,} values where {values:,} are expected")


def _hash(array: NDArray[Any]) -> str:
    return str(blake3(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"").hexdigest())


class ParquetReader:
    """Reads one shard; see ShardReader."""

    def __init__(self, descriptor: Descriptor, chunks: tuple[Range, ...]) -> None:
        self._columns = descriptor.columns()
        self._codec = descriptor.codec
        self._chunks = chunks
        self._footer: Footer | None = None

    @property
    def needs_footer(self) -> bool:
        """See ShardReader."""
        return self._footer is None

    def set_footer(self, data: bytes) -> None:
        """See ShardReader.set_footer.

        Raises:
            ValueError: It describes other chunks.
        """
        self._footer = Footer(data, self._columns, self._chunks, self._codec)

    def read(
        self, data: memoryview, number: int, names: list[str], out: ragged.Buffers | None = None
    ) -> dict[str, NDArray[Any]]:
        """See ShardReader.read.

        Raises:
            ValueError: There is no footer, or the pages are not those of a store.
        """
        if self._footer is None:
            raise ValueError("the footer was not read before the chunk")
        arrays = self._footer.read_chunk(bytes(data), number, names)
        if out is not None:
            for name in [name for name in arrays if self._columns[name].per is None]:
                view = out[name][: len(arrays[name])]
                view[:] = arrays[name]
                arrays[name] = view
        return arrays


FORMAT = ShardFormat(
    suffix=".parquet", open_writer=ParquetWriter, open_reader=ParquetReader, list_bytes=2 * LEVEL_BYTES
)
