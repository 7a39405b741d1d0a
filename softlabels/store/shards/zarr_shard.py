"""A shard as a Zarr v3 group inside an uncompressed zip (docs/FORMAT.md, section 4.1).

Any Zarr reader opens it and sees plain arrays. The zip is written front to back: chunk by chunk the Zarr chunks of all
columns, so that the rows decoded together are one byte range with one hash, then the ``zarr.json`` documents and the
zip's directory. Reading takes a range, verifies it and decodes from it directly; zarr-python is the reference in the
tests. blosc packs ids to their true width or better; crc32c comes last, for readers that know no records. BLAKE3 over
the range covers what crc32c does, so reading here does not compute both. Sizes and speeds of the codecs stand in
docs/adr/0003-shard-codec.md.

Zarr's chunks are of one size, so a ragged column is padded: chunk c of every column has room for the fullest chunk of
the shard, and a unit with ragged columns is held until its last row is known.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings import Column
from softlabels.errors import StoreError
from softlabels.store.format.descriptor import VERSION, Descriptor
from softlabels.store.format.limits import MAX_CHUNK_BYTES, decoded_bytes
from softlabels.store.format.record import Range
from softlabels.store.shards.hashed_file import HashedFile
from softlabels.store.shards.registry import ShardFormat

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
DIRECTORY_ENTRY = struct.Struct("<4s6H3I5H2I")
DIRECTORY_END = struct.Struct("<4s4H2IH")
LOCAL_MAGIC, ENTRY_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
ZIP_VERSION = 20
DOS_DATE = (1 << 5) | 1  # 1980-01-01: a shard's bytes depend on its rows alone
CRC_BYTES = 4
BLOSC_HEADER = 16
CODECS = {"zstd": 1, "lz4": 5}
"""Compressors a store may use, with the level."""
PACKED = ("zstd", 8)
"""Compressor and level of packed columns, without a shuffle."""
MIN_SAVED = 16
"""An array of which compression saves less than one part in so many is stored as it is: decoding it would cost more."""


class ZarrWriter:
    """Writes one shard; see ShardWriter.

    Memory: a chunk; where columns are ragged, the unit.
    """

    def __init__(self, sink: HashedFile, descriptor: Descriptor) -> None:
        self._sink = sink
        self._descriptor = descriptor
        self._columns = descriptor.columns()
        self._entries: list[tuple[bytes, int, int, int]] = []  # name, crc32, size, offset
        self._held: list[Mapping[str, NDArray[Any]]] = []
        self._chunks: list[Range] = []
        self._room = {name: descriptor.chunk_rows for name, column in self._columns.items() if column.per is None}

    def write_chunk(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """See ShardWriter.write_chunk."""
        if len(self._room) < len(self._columns):
            self._held.append(columns)
        else:
            self._write(columns)

    def finish(self) -> list[Range]:
        """See ShardWriter.finish."""
        for name in self._columns.keys() - self._room.keys():
            self._room[name] = max([1, *(len(columns[name]) for columns in self._held)])
        for columns in self._held:
            self._write(columns)
        count = sum(chunk.rows for chunk in self._chunks)
        for name, document in metadata(self._descriptor, count, self._room).items():
            self._member(name, json.dumps(document).encode())
        self._write_directory()
        return self._chunks

    def _write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        for name, column in self._columns.items():
            full = np.zeros((self._room[name], *column.shape), np.dtype(column.dtype).newbyteorder("<"))
            full[: len(columns[name])] = columns[name]
            encoded = encode_array(full, self._descriptor.codec, packed=column.packed)
            if not np.array_equal(decode_array(encoded, column, len(full)).view(np.uint8), full.view(np.uint8)):
                raise StoreError(
                    f"column {name!r} does not survive compression, so memory or a library is at fault; nothing was "
                    "committed: test the machine, and run the same command again"
                )
            self._member(f"{name}/{chunk_key(len(self._chunks), column)}", encoded)
        self._chunks.append(self._sink.cut(len(columns["key"])))

    def _member(self, name: str, data: bytes) -> None:
        """Write one stored zip member."""
        encoded, crc = name.encode(), zlib.crc32(data)
        header = LOCAL_HEADER.pack(
            LOCAL_MAGIC, ZIP_VERSION, 0, 0, 0, DOS_DATE, crc, len(data), len(data), len(encoded), 0
        )
        self._entries.append((encoded, crc, len(data), self._sink.size))
        self._sink.write(header + encoded + data)

    def _write_directory(self) -> None:
        start = self._sink.size
        for name, crc, size, offset in self._entries:
            fields = (ZIP_VERSION, ZIP_VERSION, 0, 0, 0, DOS_DATE, crc, size, size, len(name), 0, 0, 0, 0, 0, offset)
            self._sink.write(DIRECTORY_ENTRY.pack(ENTRY_MAGIC, *fields) + name)
        count, length = len(self._entries), self._sink.size - start
        self._sink.write(DIRECTORY_END.pack(END_MAGIC, 0, 0, count, count, length, start, 0))


class ZarrReader:
    """Reads one shard; see ShardReader."""

    needs_footer = False

    def __init__(self, descriptor: Descriptor, chunks: tuple[Range, ...]) -> None:
        self._columns = descriptor.columns()
        self._chunk_rows = descriptor.chunk_rows
        self._chunks = chunks

    def set_footer(self, data: bytes) -> None:
        """See ShardReader.set_footer; chunks are read without it."""

    def read(
        self, data: memoryview, number: int, names: list[str], out: ragged.Buffers | None = None
    ) -> dict[str, NDArray[Any]]:
        """See ShardReader.read."""
        return read_chunk(data, number, self._chunks[number].rows, self._columns, self._chunk_rows, names, out=out)


FORMAT = ShardFormat(suffix=".zarr.zip", open_writer=ZarrWriter, open_reader=ZarrReader)


def read_chunk(
    data: bytes | memoryview,
    number: int,
    count: int,
    columns: Mapping[str, Column],
    chunk_rows: int,
    names: list[str],
    *,
    out: ragged.Buffers | None = None,
) -> dict[str, NDArray[Any]]:
    """Return columns from a chunk's byte range, whose hash has been checked.

    Args:
        data: Bytes of the range.
        number: Index of the chunk within the shard.
        count: Rows of the chunk; the entries behind them are padding.
        columns: Columns of the shard, in order.
        chunk_rows: Rows that a plain column has with its padding.
        names: Names of the columns to decode, each after those that count its entries.
        out: Buffers to decode into, by column; a buffer that is missing or too small is replaced by new memory.

    Returns:
        (count, *shape) arrays by column; (entries, *shape) of ragged ones.

    Raises:
        ValueError: Other members than the columns have, or impossible sizes.
    """
    bodies, remaining = {}, memoryview(data)
    for name, column in columns.items():
        member, bodies[name], remaining = _member(remaining) if remaining else (b"", remaining, remaining)
        if member != f"{name}/{chunk_key(number, column)}".encode():
            raise ValueError(f"the chunk holds {member!r} where {name!r} is expected")
    if len(remaining):
        raise ValueError("more than the store's columns")
    declared = sum(
        decoded_bytes(columns[name], _declared(bodies[name]) // columns[name].entry_bytes, "zarr") for name in names
    )
    if declared > MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk declares {declared:,} bytes, where at most {MAX_CHUNK_BYTES:,} are allowed")
    result: dict[str, NDArray[Any]] = {}
    for name in names:
        column = columns[name]
        entries, room = count, chunk_rows
        if column.per is not None:
            entries, room = ragged.entries(result, columns, name), _declared(bodies[name]) // column.entry_bytes
            if entries > room:
                raise ValueError(f"column {name!r} has room for {room:,} entries where {entries:,} are counted")
        buffer = None if out is None else out.get(name)
        into = buffer[:room] if buffer is not None and len(buffer) >= room else None
        result[name] = decode_array(bodies[name], column, room, into)[:entries]
    return result


def _member(view: memoryview) -> tuple[bytes, memoryview, memoryview]:
    """Return name and body of the stored zip member that ``view`` begins with, and the bytes after it."""
    if len(view) < LOCAL_HEADER.size:
        raise ValueError("a zip member is cut off")
    magic, _, flags, method, _, _, _, size, full, name_size, extra = LOCAL_HEADER.unpack_from(view)
    body = LOCAL_HEADER.size + name_size
    end = body + size
    if magic != LOCAL_MAGIC or flags or method or extra or size != full or end > len(view):
        raise ValueError("not a plain stored zip member")
    return bytes(view[LOCAL_HEADER.size : body]), view[body:end], view[end:]


def encode_array(array: NDArray[Any], codec: str, *, packed: bool = False) -> bytes:
    """Return one Zarr chunk: little-endian bytes, blosc, crc32c.

    Args:
        array: (n, *shape) entries of a column.
        codec: Compressor of the store.
        packed: True for a packed column, which has the compressor PACKED.
    """
    size = array.dtype.itemsize
    name, level, shuffle = _compressor(codec, size, packed=packed)
    body = blosc.compress(array, name.encode(), level, shuffle, 0, typesize=size)
    if len(body) > array.nbytes - array.nbytes // MIN_SAVED:
        body = blosc.compress(array, codec.encode(), 0, blosc.NOSHUFFLE, 0, typesize=size)
    return bytes(body) + struct.pack("<I", google_crc32c.value(bytes(body)))


def decode_array(
    data: bytes | memoryview, column: Column, count: int, into: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return the (count, *shape) array in one Zarr chunk, within the memory of that array.

    Args:
        data: Bytes of the chunk.
        column: Column that it holds.
        count: Entries that it must have.
        into: Array of ``count`` entries to decode into; None: a new one.

    Raises:
        ValueError: The bytes are not of Blosc, or of another size.
    """
    out = np.empty((count, *column.shape), np.dtype(column.dtype).newbyteorder("<")) if into is None else into
    body = data[:-CRC_BYTES]
    size = _declared(data)
    if size != out.nbytes:
        raise ValueError(f"a compressed array declares {size:,} bytes where {out.nbytes:,} are expected")
    try:
        blosc.decompress(body, out)
    except RuntimeError as error:
        raise ValueError(f"a compressed array is damaged: {error}") from None
    return out


def _declared(data: bytes | memoryview) -> int:
    """Return the bytes that a compressed array declares to have when decompressed."""
    if len(data) < BLOSC_HEADER + CRC_BYTES:
        raise ValueError("a compressed array is cut off")
    size, _block, compressed = struct.unpack_from("<III", data, 4)  # blosc's header, after its four flag bytes
    if compressed != len(data) - CRC_BYTES:
        raise ValueError(f"a compressed array declares {compressed:,} bytes and has {len(data) - CRC_BYTES:,}")
    return int(size)


def chunk_key(number: int, column: Column) -> str:
    """Return the name of chunk ``number`` along the rows in Zarr."""
    return "/".join(["c", str(number), *["0"] * len(column.shape)])


def metadata(descriptor: Descriptor, count: int, room: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return the ``zarr.json`` documents of a shard of ``count`` rows, by path: groups and arrays.

    The root's attributes hold what decoding needs, so that a shard on its own can be read.

    Args:
        descriptor: Descriptor of the store.
        count: Rows of the unit.
        room: Entries of a chunk by column.
    """
    about = {"version": VERSION, "heads": {name: head.to_json() for name, head in descriptor.heads.items()}}
    documents = {"zarr.json": _group({"softlabels": about})}
    for group in dict.fromkeys(name.partition("/")[0] for name in descriptor.columns() if "/" in name):
        documents[f"{group}/zarr.json"] = _group({})
    chunks = -(-count // descriptor.chunk_rows)
    for name, column in descriptor.columns().items():
        length = count if column.per is None else chunks * room[name]
        documents[f"{name}/zarr.json"] = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [length, *column.shape],
            "data_type": column.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [room[name], *column.shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": _codecs(descriptor.codec, np.dtype(column.dtype).itemsize, packed=column.packed),
            "attributes": {} if column.per is None else {"per": column.per, "chunk_rows": descriptor.chunk_rows},
        }
    return documents


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _compressor(codec: str, item_size: int, *, packed: bool) -> tuple[str, int, int]:
    """Return compressor, level and shuffle of a column.

    lz4 takes bit planes; zstd takes byte planes, or bit planes of single bytes. Bytes of a packed column are symbols of
    a Huffman code, which a shuffle would break.
    """
    if packed:
        return *PACKED, int(blosc.SHUFFLE if item_size > 1 else blosc.NOSHUFFLE)
    shuffle = blosc.SHUFFLE if codec == "zstd" and item_size > 1 else blosc.BITSHUFFLE
    return codec, CODECS[codec], int(shuffle)


def _codecs(codec: str, item_size: int, *, packed: bool) -> list[dict[str, Any]]:
    name, level, shuffle = _compressor(codec, item_size, packed=packed)
    names = {int(blosc.NOSHUFFLE): "noshuffle", int(blosc.SHUFFLE): "shuffle", int(blosc.BITSHUFFLE): "bitshuffle"}
    return [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {
            "name": "blosc",
            "configuration": {
                "cname": name,
                "clevel": level,
                "shuffle": names[shuffle],
                "typesize": item_size,
                "blocksize": 0,
            },
        },
        {"name": "crc32c"},
    ]
