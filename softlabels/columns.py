"""Columns of rows that may be ragged: slicing, taking and concatenating them.

A batch of rows is one array per column. A plain column has one entry per row. A ragged one has the entries of all rows
one after the other, and the column that it is ``per`` counts the entries of each (Column.per).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""Columns of one head, (B, *shape) each; entries of ragged ones one after the other."""


COUNT = "count"
"""Column that counts the entries of a row of an encoding whose rows differ in length."""


@dataclass(frozen=True)
class Column:
    """One array of an encoding.

    Example:
        >>> from softlabels.columns import Column
        >>> Column("float16", (32,)).entry_bytes
        64

    Attributes:
        dtype: NumPy name of the type, little endian in files.
        shape: Shape of one entry.
        per: Column that counts how many entries of this one belong to each of its own numbers; None: one entry per row.
            That column may be ragged itself: entries per position, positions per row. It may also have a shape, such as
            (H, W): entries per pixel.
        packed: Compressed to the entropy of its bytes, by a Huffman code, whatever the store's codec is.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    per: str | None = None
    packed: bool = False

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry before compression."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


Rows = Mapping[str, NDArray[Any]]
Bounds = dict[str, NDArray[np.int64]]

Buffers = Mapping[str, NDArray[Any]]
"""Little-endian memory to decode into, by column. A column whose buffer is missing or too small gets new memory."""


def entry_counts(counts: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the entries of each row of a column, (n,), from the column that counts them, (n, *shape)."""
    return counts if counts.ndim == 1 else counts.reshape(len(counts), -1).sum(axis=1, dtype=np.int64)


def entries(rows: Rows, columns: Mapping[str, Column], name: str) -> int:
    """Return the number of entries that a ragged column must have, from the column that counts them."""
    return int(rows[str(columns[name].per)].sum(dtype=np.int64))


def take(rows: Rows, columns: Mapping[str, Column], indices: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    """Return the rows at ``indices``, in that order, of the columns in ``rows``.

    Example:
        >>> import numpy as np
        >>> from softlabels import columns
        >>> schema = {"count": columns.Column("uint16"), "ids": columns.Column("uint8", per="count")}
        >>> rows = {"count": np.array([2, 1]), "ids": np.array([7, 8, 9])}
        >>> columns.take(rows, schema, np.array([1, 0]))["ids"].tolist()
        [9, 7, 8]
    """
    places = {
        per: ranges(begin[indices], begin[indices + 1] - begin[indices]) for per, begin in bounds(rows, columns).items()
    }
    return {name: array.take(places.get(columns[name].per or "", indices), axis=0) for name, array in rows.items()}


def cut(
    rows: Rows, columns: Mapping[str, Column], start: int, stop: int, ends: Bounds | None = None
) -> dict[str, NDArray[Any]]:
    """Return rows ``start`` to ``stop`` without copying.

    Args:
        rows: Arrays by column.
        columns: Columns of the arrays.
        start: First row.
        stop: Row after the last.
        ends: ``bounds`` of the rows, for rows that are cut again and again. None: computed here.
    """
    ends = bounds(rows, columns) if ends is None else ends
    arrays = {}
    for name, array in rows.items():
        begin = ends.get(columns[name].per or "")
        arrays[name] = array[start:stop] if begin is None else array[begin[start] : begin[stop]]
    return arrays


def blocks(rows: Rows, columns: Mapping[str, Column], per: str, entries: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield successive rows without copying, as many as have up to ``entries`` entries, and at least one.

    Example:
        >>> import numpy as np
        >>> from softlabels import columns
        >>> schema = {"count": columns.Column("uint16"), "ids": columns.Column("uint8", per="count")}
        >>> rows = {"count": np.array([1, 1, 4]), "ids": np.arange(6)}
        >>> [block["ids"].tolist() for block in columns.blocks(rows, schema, "count", 3)]
        [[0, 1], [2, 3, 4, 5]]

    Args:
        rows: Arrays by column.
        columns: Columns of the arrays.
        per: Column that counts the entries.
        entries: Number of entries of a block.
    """
    ends, start = bounds(rows, columns), 0
    while start < len(rows[per]):
        reached = int(np.searchsorted(ends[per], ends[per][start] + entries, side="right"))
        stop = max(reached - 1, start + 1)
        yield cut(rows, columns, start, stop, ends)
        start = stop


def join(batches: Sequence[Rows]) -> dict[str, NDArray[Any]]:
    """Return the rows of several batches one after the other."""
    if len(batches) == 1:
        return dict(batches[0])
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def with_counts(names: Sequence[str], columns: Mapping[str, Column]) -> list[str]:
    """Return ``names`` and the columns that count their entries, in the order of ``columns``."""
    needed = set(names)
    for name in names:
        per = columns[name].per
        while per is not None:
            needed.add(per)
            per = columns[per].per
    return [name for name in columns if name in needed]


def bounds(rows: Rows, columns: Mapping[str, Column]) -> Bounds:
    """Return the first entry of each row and, as last element, the number of entries, by the column that counts."""
    starts: Bounds = {}
    for name in columns:  # in whose order a column comes after the one that counts it
        if name in rows and (per := columns[name].per) is not None and per not in starts:
            ends = np.concatenate([[0], np.cumsum(entry_counts(rows[per]), dtype=np.int64)])
            outer = columns[per].per
            starts[per] = ends if outer is None else ends[starts[outer]]
    return starts


def row_sums(values: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[Any]:
    """Return the sum of the entries of each row, (B,) int64, or float64 if they are floats.

    Example:
        >>> import numpy as np
        >>> from softlabels.columns import row_sums
        >>> row_sums(np.array([1, 2, 3], np.uint8), np.array([2, 0, 1])).tolist()
        [3, 0, 3]

    Args:
        values: Entries of all rows, one row after the other.
        counts: (B,) entries of each row.
    """
    totals = np.zeros(len(values) + 1, np.float64 if values.dtype.kind == "f" else np.int64)
    np.cumsum(values, dtype=totals.dtype, out=totals[1:])
    ends = np.cumsum(counts)
    return np.asarray(totals[ends] - totals[ends - counts])


def ranges(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], out: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the numbers starts[i], starts[i] + 1, ... (lengths[i] of them) for each i, one after the other.

    Example:
        >>> import numpy as np
        >>> from softlabels.columns import ranges
        >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
        [5, 6, 0, 1, 2]

    Args:
        starts: (n,) first number of each range.
        lengths: (n,) length of each range.
        out: Memory to write to, as long as all ranges together. None: a new array.
    """
    numbers = np.empty(int(lengths.sum()), np.int64) if out is None else out
    is_filled = lengths > 0
    if not is_filled.all():
        starts, lengths = starts[is_filled], lengths[is_filled]
    # Steps of one, but for the first of each range, which comes from the last of the range before.
    numbers[:] = 1
    ends = np.cumsum(lengths)
    numbers[(ends - lengths)] = starts - np.concatenate([[0], (starts + lengths - 1)[:-1]])[: len(starts)]
    return np.cumsum(numbers, out=numbers)


def to_arrow(values: NDArray[Any]) -> Any:
    """Return numbers, (N,), as an Arrow array over their memory.

    ``pyarrow.array`` imports pandas where that is installed, which takes longer than a small store.

    Example:
        >>> to_arrow(np.arange(3)).to_pylist()
        [0, 1, 2]
    """
    import pyarrow as pa

    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def from_arrow(array: Any, dtype: str) -> NDArray[Any]:
    """Return the numbers of an Arrow array, (N,), over its memory; like ``to_arrow``, without pandas.

    Args:
        array: Array of numbers.
        dtype: NumPy name of the type that they must have.

    Raises:
        ValueError: The numbers have another type, or some of them are null.

    Example:
        >>> from_arrow(to_arrow(np.arange(3))[1:], "int64").tolist()
        [1, 2]
    """
    import pyarrow as pa

    kind = np.dtype(dtype)
    if array.type != pa.from_numpy_dtype(kind) or array.null_count:
        raise ValueError(f"{array.null_count} nulls among values of type {array.type} where {dtype} is expected")
    if not len(array):
        return np.empty(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)
