"""A shard: one unit's rows as a Zarr v3 group inside an uncompressed zip (docs/FORMAT.md, section 4).

Any Zarr reader opens it and sees plain arrays. The zip is written front to back: first the ``zarr.json`` documents (the
header), then chunk by chunk the Zarr chunks of all columns, so that the rows decoded together lie in one byte range
with one hash, then the zip's directory. Reading takes that range, verifies it and decodes from it directly; zarr-python
is the reference in the tests. blosc packs ids to their true width or better; crc32c comes last, for readers that know
no records. BLAKE3 over the range covers what crc32c does, so reading here does not compute both. Sizes and speeds of
the codecs stand in docs/adr/0003-shard-codec.md.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from blake3 import blake3
from numcodecs import blosc
from numpy.typing import NDArray

from softlabels.encodings import Column
from softlabels.store.descriptor import VERSION, Descriptor

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
DIRECTORY_ENTRY = struct.Struct("<4s6H3I5H2I")
DIRECTORY_END = struct.Struct("<4s4H2IH")
LOCAL_MAGIC, ENTRY_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
ZIP_VERSION = 20
DOS_DATE = (1 << 5) | 1  # 1980-01-01: a shard's bytes depend on its rows alone
CRC_BYTES = 4
CODECS = {"zstd": 1, "lz4": 5}
"""Compressors a store may use, with the level."""
LARGEST = 2**32 - 1
"""Bytes of a shard: the zip is kept to its plain form."""


@dataclass(frozen=True)
class Range:
    """A byte range of a shard, with its hash.

    Attributes:
        offset: of its first byte.
        size: in bytes.
        blake3: of those bytes, hexadecimal.
        rows: rows in it; 0 for the header.
    """

    offset: int
    size: int
    blake3: str
    rows: int = 0


class ShardWriter:
    """Writes one shard to a file, chunk by chunk.

    Args:
        file: open for writing, empty.
        descriptor: of the store.
        unit: which unit this is.
    """

    def __init__(self, file: BinaryIO, descriptor: Descriptor, unit: int) -> None:
        self._file = file
        self._columns = descriptor.columns()
        self._codec = descriptor.codec
        self._chunk_rows = min(descriptor.chunk_rows, len(descriptor.unit_range(unit)))
        self._entries: list[tuple[bytes, int, int, int]] = []  # name, crc32, size, offset
        self._hasher = blake3()
        self._size = 0
        self.chunks: list[Range] = []
        for name, document in metadata(descriptor, unit).items():
            self._write_entry(name, json.dumps(document).encode())
        self.header = Range(0, self._size, self._hasher.hexdigest())

    def write_chunk(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append one chunk: (rows, *shape) of every column, in the dtypes of the descriptor.

        Raises:
            ValueError: what was encoded does not decode to what was given, so it must not be committed.
        """
        rows = len(columns["key"])
        parts = []
        for name, column in self._columns.items():
            full = np.zeros((self._chunk_rows, *column.shape), np.dtype(column.dtype).newbyteorder("<"))
            full[:rows] = columns[name]
            encoded = encode_array(full, self._codec)
            if not np.array_equal(decode_array(encoded, column, self._chunk_rows).view(np.uint8), full.view(np.uint8)):
                raise ValueError(f"column {name!r} does not survive compression; memory or library is at fault")
            parts.append((f"{name}/{chunk_key(len(self.chunks), column)}", encoded))
        start = self._size
        hasher = blake3()
        for name, data in parts:
            hasher.update(self._write_entry(name, data))
        self.chunks.append(Range(start, self._size - start, hasher.hexdigest(), rows))

    def finish(self) -> tuple[int, str]:
        """Write the zip's directory; size and BLAKE3 of the whole file."""
        start = self._size
        for name, crc, size, offset in self._entries:
            fields = (
                ENTRY_MAGIC,
                ZIP_VERSION,
                ZIP_VERSION,
                0,
                0,
                0,
                DOS_DATE,
                crc,
                size,
                size,
                len(name),
                0,
                0,
                0,
                0,
                0,
            )
            self._write(DIRECTORY_ENTRY.pack(*fields, offset) + name)
        count, length = len(self._entries), self._size - start
        self._write(DIRECTORY_END.pack(END_MAGIC, 0, 0, count, count, length, start, 0))
        return self._size, self._hasher.hexdigest()

    def _write_entry(self, name: str, data: bytes) -> bytes:
        """One stored zip member; returns its bytes, local header included."""
        encoded, crc = name.encode(), zlib.crc32(data)
        header = LOCAL_HEADER.pack(
            LOCAL_MAGIC, ZIP_VERSION, 0, 0, 0, DOS_DATE, crc, len(data), len(data), len(encoded), 0
        )
        self._entries.append((encoded, crc, len(data), self._size))
        member = header + encoded + data
        self._write(member)
        return member

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > LARGEST:
            raise ValueError("a shard is at most 4 GiB; choose fewer rows a unit with --unit-rows")
        self._file.write(data)
        self._hasher.update(data)
        self._size += len(data)


def read_chunk(
    data: bytes | memoryview, number: int, rows: int, columns: Mapping[str, Column], chunk_rows: int, wanted: set[str]
) -> dict[str, NDArray[Any]]:
    """The columns in a chunk's byte range, whose hash has been checked.

    Args:
        data: the range.
        number: of the chunk within the shard.
        rows: rows to return; a last chunk is padded to ``chunk_rows``.
        columns: of the shard, in order.
        chunk_rows: rows of a Zarr chunk.
        wanted: the columns to decode.

    Returns:
        (rows, *shape) arrays by column.

    Raises:
        ValueError: not the members that should be there.
    """
    view = memoryview(data)
    found = {}
    members = _members(view)
    for name, column in columns.items():
        member, body = next(members, (None, view[:0]))
        if member != f"{name}/{chunk_key(number, column)}":
            raise ValueError(f"the chunk holds {member!r} where {name!r} is expected")
        if name in wanted:
            found[name] = decode_array(body, column, chunk_rows)[:rows]
    if next(members, None) is not None:
        raise ValueError("more than the store's columns")
    return found


def _members(view: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Names and bodies of the stored zip members in ``view``, front to back."""
    while len(view):
        if len(view) < LOCAL_HEADER.size:
            raise ValueError("a zip member is cut off")
        magic, _, flags, method, _, _, _, size, full, name_size, extra = LOCAL_HEADER.unpack_from(view)
        body = LOCAL_HEADER.size + name_size
        if magic != LOCAL_MAGIC or flags or method or extra or size != full or body + size > len(view):
            raise ValueError("not a plain stored zip member")
        yield bytes(view[LOCAL_HEADER.size : body]).decode(), view[body : body + size]
        view = view[body + size :]


def encode_array(array: NDArray[Any], codec: str) -> bytes:
    """One Zarr chunk: little-endian bytes, blosc, crc32c."""
    size = array.dtype.itemsize
    body = blosc.compress(array, codec.encode(), CODECS[codec], _shuffle(codec, size), 0, typesize=size)
    return bytes(body) + struct.pack("<I", google_crc32c.value(bytes(body)))


def decode_array(data: bytes | memoryview, column: Column, rows: int) -> NDArray[Any]:
    """The array in one Zarr chunk; never more memory than its declared shape.

    Raises:
        ValueError: not blosc, or another size.
    """
    out = np.empty((rows, *column.shape), np.dtype(column.dtype).newbyteorder("<"))
    body = bytes(data[:-CRC_BYTES])
    if len(body) < 16:
        raise ValueError("a compressed array is cut off")
    size, _block, compressed = struct.unpack_from("<III", body, 4)  # blosc's header, after its four flag bytes
    if size != out.nbytes or compressed != len(body):
        raise ValueError(f"a compressed array declares {size:,} bytes where {out.nbytes:,} are expected")
    try:
        blosc.decompress(body, out)
    except RuntimeError as error:
        raise ValueError(f"a compressed array is damaged: {error}") from None
    return out


def chunk_key(number: int, column: Column) -> str:
    """Zarr's name of chunk ``number`` along the rows."""
    return "/".join(["c", str(number), *["0"] * len(column.shape)])


def metadata(descriptor: Descriptor, unit: int) -> dict[str, dict[str, Any]]:
    """The ``zarr.json`` documents of a shard, by path: groups and arrays.

    The root's attributes hold what decoding needs, so that a shard on its own can be read.
    """
    rows = descriptor.unit_range(unit)
    chunk_rows = min(descriptor.chunk_rows, len(rows))
    about = {
        "version": VERSION,
        "unit": unit,
        "first_row": rows.start,
        "heads": {name: head.to_json() for name, head in descriptor.heads.items()},
    }
    documents = {"zarr.json": _group({"softlabels": about})}
    for head in descriptor.heads:
        documents[f"{head}/zarr.json"] = _group({})
    for name, column in descriptor.columns().items():
        documents[f"{name}/zarr.json"] = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [len(rows), *column.shape],
            "data_type": column.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *column.shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": _codecs(descriptor.codec, np.dtype(column.dtype).itemsize),
            "attributes": {},
        }
    return documents


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _shuffle(codec: str, item_size: int) -> int:
    """lz4 gains from bit planes; zstd codes byte planes better, but single bytes have only bit planes."""
    return int(blosc.SHUFFLE if codec == "zstd" and item_size > 1 else blosc.BITSHUFFLE)


def _codecs(codec: str, item_size: int) -> list[dict[str, Any]]:
    return [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {
            "name": "blosc",
            "configuration": {
                "cname": codec,
                "clevel": CODECS[codec],
                "shuffle": "shuffle" if _shuffle(codec, item_size) == blosc.SHUFFLE else "bitshuffle",
                "typesize": item_size,
                "blocksize": 0,
            },
        },
        {"name": "crc32c"},
    ]
