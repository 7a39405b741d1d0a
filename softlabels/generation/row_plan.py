"""The rows of a store: which example and which view each row labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.sources import Source


@dataclass(frozen=True)
class RowPlan:
    """All (example, view) pairs of a dataset in the order of the store: the views of an example follow one another.

    Attributes:
        source: The data.
        views: Views per example; view 0 is the example as it is.
    """

    source: Source
    views: int = 1

    def __len__(self) -> int:
        return len(self.source) * self.views

    def examples(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the example of each row, (n,).

        Args:
            rows: Rows of the store, (n,).
        """
        return rows // self.views

    def names(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """Return the keys, (n, 16), and the views, (n,), of rows ``start`` to ``stop``.

        Args:
            start: First row.
            stop: Row after the last one.
        """
        rows = np.arange(start, stop, dtype=np.int64)
        first = start // self.views
        keys = self.source.keys(first, -(-stop // self.views))
        return keys[self.examples(rows) - first], (rows % self.views).astype(np.uint32)

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """Return the inputs of rows, as the source does.

        Args:
            rows: Rows of the store, (n,).
        """
        return self.source.inputs(self.examples(rows))
