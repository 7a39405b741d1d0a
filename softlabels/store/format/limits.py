"""Bounds of a store (docs/FORMAT.md, section 2), checked before memory is allocated.

A store is untrusted: what its files declare is multiplied only after each factor and the product are bounded. Within
these bounds a reader grows by less than 256 MB (tests/store/test_limits.py).
"""

from __future__ import annotations

import math

import numpy as np

from softlabels.columns import Column
from softlabels.store.shards.registry import shard_format as format_of

MAX_DESCRIPTOR_BYTES = 2**20
MAX_RECORD_BYTES = 2**16
MAX_FIDELITY_BYTES = 2**14
"""Bytes of a record that hold fidelity."""
MAX_SNAPSHOT_BYTES = 2**20
MAX_HEADER_BYTES = 2**17
"""Bytes of the header of a file of arrays."""
MAX_ARRAYS_BYTES = 2**27
"""Bytes of a file of arrays: extras, tail priors, probe, codebook."""
MAX_SHARD_BYTES = 2**32 - 1
"""Bytes of a shard, so that a zip needs no extension."""

MAX_HEADS = 64
MAX_TEMPERATURES = 64
MAX_AXES = 4
"""Axes of a head before the class axis."""
MAX_POSITIONS = 2**26
"""Product of those axes."""
MAX_ROWS = 2**48 - 1
MAX_UNITS = 2**20
"""Units of a store: 17 billion rows at 16,384 each."""
MAX_CHUNKS = 2**22
"""Chunks of a store."""
MAX_UNIT_CHUNKS = 256
"""Chunks of a unit, so that a record stays within its bytes."""
MAX_COLUMN_CHUNKS = 2**15
"""Chunks of a unit times columns, so that a zip needs no extension and a Parquet footer stays small."""

MAX_CHUNK_BYTES = 2**26
"""Bytes of all columns of a chunk, decoded, with four bytes at least for each number: see `decoded_bytes`."""
MAX_STORED_BYTES = MAX_CHUNK_BYTES * 5 // 4
"""Bytes of a chunk or a footer as stored."""


def decoded_bytes(column: Column, entries: int, shard_format: str) -> int:
    """Return the bytes of so many entries of a column in memory.

    A number counts as four bytes at least: labels are decoded to float32, and Parquet has no narrower integers. In
    Parquet a number in a list has two levels besides, of two bytes each.

    Example:
        >>> decoded_bytes(Column("uint8", (10,)), 3, "zarr"), decoded_bytes(Column("uint8", (10,)), 3, "parquet")
        (120, 240)
    """
    list_bytes = format_of(shard_format).list_bytes if column.per is not None or column.shape else 0
    return entries * math.prod(column.shape) * (max(4, np.dtype(column.dtype).itemsize) + list_bytes)
