"""The two forms of a shard behind one pair of functions: Zarr in a zip, and Parquet.

Both write the columns of the descriptor chunk by chunk, so that the rows decoded together are one byte range with one
hash, and end in a footer. A shard is read by its ranges, which the record names; nothing is taken from a footer that
the descriptor does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.record import Range
from softlabels.store.shards import parquet_shard, zarr_shard
from softlabels.store.shards.hashed_file import HashedFile


class ShardWriter(Protocol):
    """Writes the chunks of one shard."""

    def write_chunk(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append one chunk, the columns of the descriptor in their dtypes.

        Raises:
            StoreError: what was encoded does not decode to what was given, so it must not be committed.
        """

    def finish(self) -> list[Range]:
        """Write what is left and the footer; the ranges of the chunks."""


def open_writer(sink: HashedFile, descriptor: Descriptor) -> ShardWriter:
    """Return a writer of the store's shard format."""
    if descriptor.shard_format == "parquet":
        return parquet_shard.ParquetWriter(sink, descriptor)
    return zarr_shard.ZarrWriter(sink, descriptor)


class ChunkReader:
    """Decodes the chunks of one shard from bytes whose hash has been checked.

    Args:
        descriptor: of the store.
        chunks: byte ranges of the chunks.
    """

    def __init__(self, descriptor: Descriptor, chunks: tuple[Range, ...]) -> None:
        self._descriptor = descriptor
        self._columns = descriptor.columns()
        self._chunks = chunks
        self._parquet: parquet_shard.Footer | None = None

    @property
    def needs_footer(self) -> bool:
        """True if ``set_footer`` must be called before the first chunk is read."""
        return self._descriptor.shard_format == "parquet" and self._parquet is None

    def set_footer(self, data: bytes | memoryview) -> None:
        """Set the footer from its verified bytes.

        Raises:
            ValueError: It describes other chunks.
        """
        self._parquet = parquet_shard.Footer(bytes(data), self._columns, self._chunks, self._descriptor.codec)

    def read(
        self, data: memoryview, number: int, columns: list[str], out: ragged.Buffers | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return columns of chunk ``number``, and those that count their entries.

        Args:
            data: Bytes of the chunk, verified.
            number: Index of the chunk within the shard.
            columns: Names of the columns.
            out: Buffers to decode into: chunk_rows entries for a plain column, any number for a ragged one. Plain
                columns are returned as views of their buffers; ragged ones are, if their buffers are large enough.

        Raises:
            ValueError: The bytes are not what a writer of this store leaves.
        """
        names = ragged.with_counts(columns, self._columns)
        extent, capacity = self._chunks[number], self._descriptor.chunk_rows
        if self._parquet is None:
            return zarr_shard.read_chunk(data, number, extent.rows, self._columns, capacity, names, out=out)
        result = self._parquet.read_chunk(bytes(data), number, names)
        if out is not None:
            for name in [name for name in result if self._columns[name].per is None]:
                view = out[name][: extent.rows]
                view[:] = result[name]
                result[name] = view
        return result
