"""Bounds on the memory that a file of data takes when a block of it is decoded.

A compressed file of a few kilobytes can declare gigabytes. A block, a row group of Parquet or a record batch of Arrow,
may take 1 GiB, or 32 times the size of its file if that is more. Honest files stay far below: blocks are usually of
tens of megabytes, and values compress by less than 32 on average.
"""

from __future__ import annotations

from softlabels.errors import InvalidData

MIN_LIMIT = 2**30
"""Bytes that a block of any file may take."""
MAX_EXPANSION = 32
"""Bytes of a decoded block per byte of its file, above MIN_LIMIT."""


def limit_of(size: int) -> int:
    """Return the bytes that a decoded block of a file may take.

    Args:
        size: Size of the file in bytes.

    Example:
        >>> limit_of(1000) == 2**30, limit_of(2**30) == 2**35
        (True, True)
    """
    return max(MIN_LIMIT, MAX_EXPANSION * size)


def check_expansion(decoded: int, size: int, name: str, block: str) -> None:
    """Raise if a block of a file takes more memory than it may.

    Args:
        decoded: Bytes of the block in memory, or as many of them as are known to be needed.
        size: Size of the file in bytes.
        name: Name of the data in messages.
        block: Name of the block in messages, such as ``row group 3``.

    Raises:
        InvalidData: The block takes too much memory.
    """
    if decoded > limit_of(size):
        raise InvalidData(
            f"{name}: {block} takes too much memory, got {decoded:,} bytes or more from a file of {size:,}; expected "
            f"at most {limit_of(size):,}. Write the file again with smaller blocks"
        )
