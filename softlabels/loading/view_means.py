"""Labels of all views of an example as one: the mean of their distributions, for the example's own image.

A student of the centre crop then learns what the teacher predicts on average over the augmentation, with one row per
example in an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, SoftLabels
from softlabels.loading.averaging import mean_labels
from softlabels.loading.chunks.arena import Arrays
from softlabels.loading.chunks.cache import ChunkCache
from softlabels.loading.order.epoch import Join, Rows


@dataclass(frozen=True)
class ViewMeans:
    """The views of every example of a join.

    Attributes:
        cache: Cache of the store.
        first: First store row of each example, ascending, (examples,).
        rows: Store rows of the views of each example, (examples, views).
    """

    cache: ChunkCache
    first: Rows
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, joined: Join, cache: ChunkCache) -> ViewMeans:
        """Return the views of the examples of a join.

        Args:
            joined: Examples and the store rows of their views.
            cache: Cache of the store.

        Raises:
            InvalidArgument: Examples have labels of different numbers of views.
        """
        counts = np.unique(joined.views)
        if len(counts) > 1:
            raise InvalidArgument(
                f"views: examples have labels of {counts[0]} to {counts[-1]} views; expected equal numbers for their "
                "mean. Complete the store, or use views='one'"
            )
        rows = joined.rows.reshape(len(joined.views), -1)
        order = np.argsort(rows[:, 0], kind="stable")
        return cls(cache, rows[order, 0], rows[order])

    def columns(self, first: Rows) -> list[Arrays]:
        """Return the columns of the views of examples, one view of all of them after the other.

        Args:
            first: First store row of each example, (n,).
        """
        rows = self.rows[np.searchsorted(self.first, first)]
        return [self.cache.gather(of_view) for of_view in rows.T]

    def mean(self, head: str, by_view: list[Arrays]) -> SoftLabels:
        """Return the mean labels of examples, at the highest temperature of the head.

        Args:
            head: Name of the head.
            by_view: Columns of the examples by view, as ``columns`` returns them.
        """
        store = self.cache.store
        kind = store.heads[head]
        temperature = max(kind.temperatures) if kind.kind in DISTRIBUTIONS else 1.0
        labels = [store.decode(columns, head) for columns in by_view]
        return mean_labels(labels, [1 / len(labels)] * len(labels), temperature)
