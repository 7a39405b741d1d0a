"""The rows of a store: which example and which view each row labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.generation.settings import Settings
from softlabels.sources import Source
from softlabels.sources.view_inputs import ViewInputs, record_views


@dataclass(frozen=True)
class RowPlan:
    """All (example, view) pairs of a dataset in the order of the store: the views of an example follow one another.

    Attributes:
        source: The data.
        views: Views per example.
        replay: Views of the source's images; None: the only view of an example is its input as it is.
    """

    source: Source
    views: int = 1
    replay: ViewInputs | None = None

    @classmethod
    def of(cls, source: Source, settings: Settings) -> Self:
        """Return the plan of a run.

        Args:
            source: The data.
            settings: Settings of the run.

        Raises:
            InvalidArgument: The policy is invalid.
            InvalidData: The data has no images.
        """
        if settings.views is None or settings.augment is None:
            return cls(source)
        record = record_views(source, count=settings.views, policy=settings.augment, seed=settings.seed)
        return cls(source, settings.views, ViewInputs(source, record))

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
        """Return the inputs of rows, as the source does; views are replayed.

        Args:
            rows: Rows of the store, (n,).
        """
        if self.replay is not None and len(rows):
            return self.replay.inputs(self.examples(rows), rows % self.views)
        return self.source.inputs(self.examples(rows))
