"""Rows of columns that may be ragged: cutting, taking and joining them.

A batch of rows is one array a column. A plain column has one entry a row; a ragged one has all rows' entries one after
the other, and the column it is ``per`` says how many belong to which (Column.per).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings.protocol import Column
from softlabels.labels import ranges

Rows = Mapping[str, NDArray[Any]]


def entries(rows: Rows, columns: Mapping[str, Column], name: str) -> int:
    """How many entries a ragged column must have, from the column that counts them."""
    return int(rows[str(columns[name].per)].sum(dtype=np.int64))


def take(rows: Rows, columns: Mapping[str, Column], wanted: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    """The rows numbered ``wanted``, in that order, of the columns in ``rows``."""
    taken = {}
    for name, array in rows.items():
        bounds = _bounds(rows, columns, name)
        if bounds is None:
            taken[name] = array[wanted]
        else:
            taken[name] = array[ranges(bounds[wanted], bounds[wanted + 1] - bounds[wanted])]
    return taken


def cut(rows: Rows, columns: Mapping[str, Column], start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Rows ``start`` to ``stop``, without copying."""
    pieces = {}
    for name, array in rows.items():
        bounds = _bounds(rows, columns, name)
        pieces[name] = array[start:stop] if bounds is None else array[bounds[start] : bounds[stop]]
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


def _bounds(rows: Rows, columns: Mapping[str, Column], name: str) -> NDArray[np.int64] | None:
    """Where each row's entries begin, and at the end how many there are; None for a plain column."""
    per = columns[name].per
    if per is None:
        return None
    ends = np.concatenate([[0], np.cumsum(rows[per], dtype=np.int64)])
    outer = _bounds(rows, columns, per)
    return ends if outer is None else ends[outer]
