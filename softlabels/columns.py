"""Rows of columns that may be ragged: cutting, taking and joining them.

A batch of rows is one array a column. A plain column has one entry a row; a ragged one has all rows' entries one after
the other, and the column it is ``per`` says how many belong to which (Column.per).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""Columns of one head, (B, *shape) each; entries of ragged ones one after the other."""


COUNT = "count"
"""The column that counts the entries of a row where their number differs."""


@dataclass(frozen=True)
class Column:
    """One array of an encoding.

    Attributes:
        dtype: NumPy name, little endian in files.
        shape: of one entry.
        per: the column that says how many entries each of its own entries has here; None: one entry a row. That column
            may be ragged itself: entries per position, positions per row.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    per: str | None = None

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry before compression."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


Rows = Mapping[str, NDArray[Any]]
Bounds = dict[str, NDArray[np.int64]]

Memory = Callable[[str, int], NDArray[Any]]
"""Little-endian memory for so many entries of the column of that name, to decode into."""


def entries(rows: Rows, columns: Mapping[str, Column], name: str) -> int:
    """How many entries a ragged column must have, from the column that counts them."""
    return int(rows[str(columns[name].per)].sum(dtype=np.int64))


def take(rows: Rows, columns: Mapping[str, Column], wanted: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    """The rows numbered ``wanted``, in that order, of the columns in ``rows``."""
    ends = bounds(rows, columns)
    places = {per: ranges(begin[wanted], begin[wanted + 1] - begin[wanted]) for per, begin in ends.items()}
    return {name: array.take(places.get(columns[name].per or "", wanted), axis=0) for name, array in rows.items()}


def cut(
    rows: Rows, columns: Mapping[str, Column], start: int, stop: int, ends: Bounds | None = None
) -> dict[str, NDArray[Any]]:
    """Rows ``start`` to ``stop``, without copying; of rows that are cut again and again, give their ``bounds``."""
    ends = bounds(rows, columns) if ends is None else ends
    pieces = {}
    for name, array in rows.items():
        begin = ends.get(columns[name].per or "")
        pieces[name] = array[start:stop] if begin is None else array[begin[start] : begin[stop]]
    return pieces


def join(parts: Sequence[Rows]) -> dict[str, NDArray[Any]]:
    """Batches of rows one after the other."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def with_counts(names: Sequence[str], columns: Mapping[str, Column]) -> list[str]:
    """``names`` and the columns that count their entries, in the order of ``columns``."""
    needed = set(names)
    for name in names:
        per = columns[name].per
        while per is not None:
            needed.add(per)
            per = columns[per].per
    return [name for name in columns if name in needed]


def bounds(rows: Rows, columns: Mapping[str, Column]) -> Bounds:
    """Where each row's entries begin, and at the end how many there are, by the column that counts them."""
    found: Bounds = {}
    for name in columns:  # in whose order a column comes after the one that counts it
        if name in rows and (per := columns[name].per) is not None and per not in found:
            ends = np.concatenate([[0], np.cumsum(rows[per], dtype=np.int64)])
            outer = columns[per].per
            found[per] = ends if outer is None else ends[found[outer]]
    return found


def ranges(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], out: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The numbers starts[i], starts[i] + 1, ... (lengths[i] of them) for each i, one after the other.

    Args:
        starts: (n,).
        lengths: (n,).
        out: as long as all lengths together, to write to; None: a new array.
    """
    found = np.empty(int(lengths.sum()), np.int64) if out is None else out
    some = lengths > 0
    if not some.all():
        starts, lengths = starts[some], lengths[some]
    # Steps of one, but for the first of each range, which comes from the last of the range before.
    found[:] = 1
    ends = np.cumsum(lengths)
    found[(ends - lengths)] = starts - np.concatenate([[0], (starts + lengths - 1)[:-1]])[: len(starts)]
    return np.cumsum(found, out=found)
