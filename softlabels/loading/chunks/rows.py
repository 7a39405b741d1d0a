"""Rows on their way from decoded chunks to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.columns import Column
from softlabels.loading.chunks.arena import Arrays
from softlabels.loading.order.epoch import Rows


@dataclass(frozen=True)
class RowColumns:
    """The stored columns of some rows, in the order of the epoch.

    Attributes:
        store_rows: Row numbers in the first store; in the data if there is no store, (n,).
        source_rows: Row numbers in the data; equal to ``store_rows`` if nothing is joined, (n,).
        columns: Columns by name, of each store.
        schemas: Schemas of the columns, of each store.
    """

    store_rows: Rows
    source_rows: Rows
    columns: tuple[Arrays, ...]
    schemas: tuple[Mapping[str, Column], ...]

    def __len__(self) -> int:
        return len(self.store_rows)

    @cached_property
    def _bounded(self) -> list[list[tuple[str, NDArray[Any], NDArray[np.int64] | None]]]:
        """Name, array, and for a ragged column where each row's entries begin, of each column of each store."""
        members = []
        for arrays, schema in zip(self.columns, self.schemas, strict=True):
            bounds = ragged.bounds(arrays, schema)
            members.append([(name, array, bounds.get(schema[name].per or "")) for name, array in arrays.items()])
        return members

    def slice(self, start: int, stop: int) -> RowColumns:
        """Return rows ``start`` to ``stop`` over the same memory."""
        columns = tuple(
            {name: array[start:stop] if begin is None else array[begin[start] : begin[stop]]
             for name, array, begin in member}
            for member in self._bounded
        )  # fmt: skip
        return RowColumns(self.store_rows[start:stop], self.source_rows[start:stop], columns, self.schemas)


def concat_rows(runs: Sequence[RowColumns]) -> RowColumns:
    """Return rows one run after the other."""
    if len(runs) == 1:
        return runs[0]
    columns = tuple(ragged.join(members) for members in zip(*(run.columns for run in runs), strict=True))
    store_rows = np.concatenate([run.store_rows for run in runs])
    return RowColumns(store_rows, np.concatenate([run.source_rows for run in runs]), columns, runs[0].schemas)
