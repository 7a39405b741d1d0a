"""Bytes of a store beside labels and keys: what files, chunks and footers cost.

They are measured, not computed: a shard of one row per chunk is written to a temporary file by the store's own writer.
With few rows per chunk, or many columns, they are several per cent of a store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import encodings
from softlabels.columns import COUNT, Column
from softlabels.labels import Head
from softlabels.store import DataRecord, Descriptor, TeacherRecord, default_geometry, open_storage
from softlabels.store.format.descriptor import OWN_COLUMNS
from softlabels.store.format.limits import MAX_UNIT_CHUNKS
from softlabels.store.shards.hashed_file import HashedFile
from softlabels.store.shards.shard import open_writer
from softlabels.store.shards.zarr_shard import encode_array

KEY_BYTES = 16
"""Bytes of a row's key, which no codec compresses."""

USUAL_POSITIONS = 1024
"""Positions of a ragged row, for the size of units."""

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
    one, two = (_written_bytes(head, chunks, codec, shard_format) for chunks in (1, 2))
    of_chunk, of_unit = two - one, 2 * one - two
    return full * (of_unit + unit_chunks * of_chunk) + (of_unit + rest_chunks * of_chunk if rest else 0)


def _written_bytes(head: Head, chunks: int, codec: str, shard_format: str) -> int:
    """Return the bytes of a shard with one row per chunk, without the labels and keys of those rows."""
    priors = encodings.parse(head.encoding, classes=head.classes).priors
    descriptor = Descriptor(
        rows=chunks,
        unit_rows=chunks,
        chunk_rows=1,
        heads={"head": replace(head, codebook=NO_CODEBOOK if priors > 1 else None)},
        teacher=TeacherRecord(spec="", digest=None),
        data=DataRecord(spec="", fingerprint=None, rows=None),
        shard_format=shard_format,
        codec=codec,
    )
    columns = {name: _one_entry(column, name) for name, column in descriptor.columns().items()}
    payload = KEY_BYTES
    for name, array in columns.items():
        if name not in OWN_COLUMNS:
            payload += len(encode_array(array, codec)) if shard_format == "zarr" else array.nbytes
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(folder)
        storage.prepare()
        file = storage.create()
        sink = HashedFile(file)
        writer = open_writer(sink, descriptor)
        for _ in range(chunks):
            writer.write_chunk(columns)
        writer.finish()
        file.discard()
        return sink.size - chunks * payload


def _one_entry(column: Column, name: str) -> NDArray[Any]:
    """Return one entry of a column: 1 for a count of others, zero for a view, bytes that do not compress elsewhere."""
    if name == "view":
        return np.zeros(1, column.dtype)
    if name.endswith(("/length", f"/{COUNT}")):
        return np.ones(1, column.dtype)
    noise = np.random.default_rng(0).integers(0, 256, column.entry_bytes, np.uint8)
    return noise.view(column.dtype).reshape(1, *column.shape)
