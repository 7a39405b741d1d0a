"""Bytes of a store: those of labels, and those of files, chunks and footers beside labels and keys.

Bytes are measured, not computed: shards are written to memory by the store's own writer. With few rows per
chunk, or many columns, containers are several per cent of a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels import encodings
from softlabels.columns import Column
from softlabels.labels import Head
from softlabels.store import DataRecord, Descriptor, TeacherRecord, default_geometry
from softlabels.store.format.descriptor import OWN_COLUMNS
from softlabels.store.format.limits import MAX_UNIT_CHUNKS
from softlabels.store.shards.hashed_file import HashedFile
from softlabels.store.shards.registry import shard_format as format_of

KEY_BYTES = 16
"""Bytes of a row's key, which no codec compresses."""

USUAL_POSITIONS = 1024
"""Positions of a ragged row, for the size of units."""

_EMPTY_BYTES: dict[tuple[Any, ...], int] = {}
"""Bytes of containers that were measured, by their columns, chunks, codec and format."""

NO_CODEBOOK = "0" * 64
"""Digest of a codebook that is not there; descriptors of some encodings need one."""


def geometry_of(
    heads: Mapping[str, Head], rows: int | None, unit_rows: int | None = None, *, positions: int = USUAL_POSITIONS
) -> tuple[int, int]:
    """Return the rows of a unit and of a chunk.

    Args:
        heads: Heads of the store, with canonical encodings.
        rows: Rows of the store; None if they are appended.
        unit_rows: Rows of a unit; None: from the size of a row.
        positions: Positions of a ragged row.
    """
    size: float = sum(column.entry_bytes for column in OWN_COLUMNS.values())
    for head in heads.values():
        item = encodings.row_bytes(encodings.parse(head.encoding, classes=head.classes), head)
        size += item * (positions if head.ragged else 1)
    default_rows, chunk_rows = default_geometry(size, rows)
    if unit_rows is None or unit_rows < 1:  # the descriptor refuses the latter
        return (default_rows if unit_rows is None else unit_rows), chunk_rows
    unit_rows = unit_rows if rows is None else min(unit_rows, rows)
    return unit_rows, min(max(chunk_rows, -(-unit_rows // MAX_UNIT_CHUNKS)), unit_rows)


def container_bytes(
    head: Head, *, rows: int, codec: str, shard_format: str, unit_rows: int | None = None, grows: bool = False
) -> int:
    """Return the bytes of all shards of a store beside labels and keys.

    Args:
        head: Head of the store, with a canonical encoding.
        rows: Rows of the store.
        codec: Compression of the shards.
        shard_format: File format of the shards.
        unit_rows: Rows of a unit; None: from the size of a row.
        grows: If True, rows are appended, so that the size of units does not depend on their number.
    """
    unit_rows, chunk_rows = geometry_of({"head": head}, None if grows else rows, unit_rows)
    full, rest = divmod(rows, unit_rows)
    unit_chunks, rest_chunks = -(-unit_rows // chunk_rows), -(-rest // chunk_rows)
    one, two = (_empty_bytes(head, chunks, codec, shard_format) for chunks in (1, 2))
    of_chunk, of_unit = two - one, 2 * one - two
    return full * (of_unit + unit_chunks * of_chunk) + (of_unit + rest_chunks * of_chunk if rest else 0)


def label_bytes(head: Head, labels: Mapping[str, NDArray[Any]], rows: int, *, codec: str, shard_format: str) -> int:
    """Return the bytes of the labels of some rows in a shard of chunks as a store has, without keys and containers.

    Args:
        head: Head of the labels, not ragged.
        labels: Columns of the head by name.
        rows: Number of rows.
        codec: Compression of the shard.
        shard_format: File format of the shard.
    """
    columns = {
        "key": _noise(Column("uint8", (KEY_BYTES,)), rows),
        "view": np.zeros(rows, np.uint32),
        **{f"head/{name}": np.ascontiguousarray(column) for name, column in labels.items()},
    }
    _, chunk_rows = geometry_of({"head": head}, rows)
    chunks = -(-rows // chunk_rows)
    descriptor = _descriptor(head, chunks, chunk_rows, codec, shard_format)
    starts = range(0, rows, chunk_rows)
    batches = [ragged.cut(columns, descriptor.columns(), start, min(start + chunk_rows, rows)) for start in starts]
    return _written_bytes(descriptor, batches) - KEY_BYTES * rows - _empty_bytes(head, chunks, codec, shard_format)


def _empty_bytes(head: Head, chunks: int, codec: str, shard_format: str) -> int:
    """Return the bytes of a shard with one row per chunk, without the labels and keys of those rows."""
    # Positions make rows larger, and their container not.
    head = head if head.ragged else replace(head, shape=(), downsample=1)
    descriptor = _descriptor(head, chunks, 1, codec, shard_format)
    schema = descriptor.columns()
    key = (*schema.items(), chunks, codec, shard_format)
    if key not in _EMPTY_BYTES:  # encodings differ in more than their columns
        _EMPTY_BYTES[key] = _measure_empty_bytes(descriptor, chunks)
    return _EMPTY_BYTES[key]


def _measure_empty_bytes(descriptor: Descriptor, chunks: int) -> int:
    schema = descriptor.columns()
    counts = {column.per for column in schema.values()}
    columns = {
        name: np.ones(1, column.dtype) if name in counts else _noise(column, 1) for name, column in schema.items()
    }
    columns["view"] = np.zeros(1, np.uint32)
    payload = KEY_BYTES + sum(array.nbytes for name, array in columns.items() if name not in OWN_COLUMNS)
    return _written_bytes(descriptor, [columns] * chunks) - chunks * payload


def _descriptor(head: Head, chunks: int, chunk_rows: int, codec: str, shard_format: str) -> Descriptor:
    priors = encodings.parse(head.encoding, classes=head.classes).priors
    return Descriptor(
        rows=chunks * chunk_rows,
        unit_rows=chunks * chunk_rows,
        chunk_rows=chunk_rows,
        heads={"head": replace(head, codebook=NO_CODEBOOK if priors > 1 else None)},
        teacher=TeacherRecord(spec="", digest=None),
        data=DataRecord(spec="", fingerprint=None, rows=None),
        shard_format=shard_format,
        codec=codec,
    )


def _written_bytes(descriptor: Descriptor, chunks: Sequence[Mapping[str, NDArray[Any]]]) -> int:
    """Return the bytes of a shard, written to memory."""
    sink = HashedFile(_MemoryFile())
    writer = format_of(descriptor.shard_format).open_writer(sink, descriptor)
    for columns in chunks:
        writer.write_chunk(columns)
    writer.finish()
    return sink.size


class _MemoryFile:
    """A shard in memory; see WritableFile."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._data += data

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])


def _noise(column: Column, rows: int) -> NDArray[Any]:
    """Return entries of bytes that do not compress."""
    noise = np.random.default_rng(0).integers(0, 256, rows * column.entry_bytes, np.uint8)
    return noise.view(column.dtype).reshape(rows, *column.shape)
