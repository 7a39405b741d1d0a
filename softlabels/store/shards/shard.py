"""The interface of a shard format: a writer and a reader of chunks.

Every format writes the columns of the descriptor chunk by chunk, so that the rows decoded together are one byte range
with one hash, and may end in a footer. A shard is read by its ranges, which the record names; nothing is taken from a
footer that the descriptor does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.store.format.record import Range


class ShardWriter(Protocol):
    """Writes the chunks of one shard."""

    def write_chunk(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append one chunk, the columns of the descriptor in their dtypes.

        Raises:
            StoreError: The encoded bytes do not decode to the same values, so they must not be committed.
        """

    def finish(self) -> list[Range]:
        """Write the rest and the footer; return the ranges of the chunks."""


class ShardReader(Protocol):
    """Decodes the chunks of one shard from bytes whose hash has been checked."""

    @property
    def needs_footer(self) -> bool:
        """True until ``set_footer`` has been called, if chunks cannot be read without a footer."""

    def set_footer(self, data: bytes) -> None:
        """Set the footer from its verified bytes.

        Raises:
            ValueError: It describes other chunks.
        """

    def read(
        self, data: memoryview, number: int, names: list[str], out: ragged.Buffers | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return columns of chunk ``number``: (rows, *shape) arrays, (entries, *shape) of ragged columns.

        Args:
            data: Bytes of the chunk, verified.
            number: Index of the chunk within the shard.
            names: Names of the columns, each after those that count its entries.
            out: Buffers to decode into: chunk_rows entries for a plain column, any number for a ragged one. Plain
                columns are returned as views of their buffers; ragged ones are, if their buffers are large enough.

        Raises:
            ValueError: The bytes are not those that a writer of this store writes.
        """
