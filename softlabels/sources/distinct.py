"""A source without repeated inputs: each one where it occurs first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from softlabels.keys import fingerprint
from softlabels.sources.image_files import Pixels
from softlabels.sources.protocol import Source
from softlabels.sources.wrapped import WrappedSource

Value = TypeVar("Value")

HASHED_ROWS = 65_536
"""Keys that are hashed at a time."""


class DistinctSource(WrappedSource):
    """The rows of a source whose key no earlier row has; see Source for the methods.

    Equal inputs have equal keys, so labels of these rows serve all rows: the loader joins by key.

    Args:
        source: Source whose rows may repeat.

    Attributes:
        original: Source whose rows may repeat.
        left_out: Number of rows that repeat earlier ones.

    Example:
        >>> from softlabels.sources import as_source
        >>> source = DistinctSource(as_source(np.array([[1.0], [2.0], [1.0]])))
        >>> len(source), source.left_out
        (2, 1)
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        names = np.ascontiguousarray(source.keys()).view("S16").reshape(-1)
        _, first = np.unique(names, return_index=True)
        self._rows: NDArray[np.int64] = np.sort(first).astype(np.int64)
        self.left_out = len(source) - len(self._rows)
        starts = range(0, len(self._rows), HASHED_ROWS)
        self._fingerprint = fingerprint(self.keys(start, start + HASHED_ROWS) for start in starts)

    @property
    def fingerprint(self) -> str:
        """Hash of the ordered keys of these rows, hexadecimal."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return the keys of rows ``start`` to ``stop``, (n, 16)."""
        return self.original.keys()[self._rows[start:stop]]

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """Return the inputs of ``rows``, in the form of the source."""
        return super().inputs(self._rows[rows])

    def map_images(self, rows: NDArray[np.int64], change: Callable[[int, Pixels], Value]) -> list[Value]:
        """Return a function of each image of ``rows`` at its own size; see ``softlabels.sources.map_images``."""
        return super().map_images(self._rows[rows], change)

    def map_masks(
        self, name: str, rows: NDArray[np.int64], change: Callable[[int, NDArray[np.int64]], Value]
    ) -> list[Value]:
        """Return a function of each mask at its own size; see ``softlabels.sources.map_masks``."""
        return super().map_masks(name, self._rows[rows], change)

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the hard labels of ``rows``; None without a label column."""
        return super().labels(self._rows[rows])

    def target(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the target of the head ``name`` for ``rows``."""
        return super().target(name, self._rows[rows])

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the rows of the split ``name``; all rows for None."""
        return np.flatnonzero(np.isin(self._rows, super().split(name))).astype(np.int64)
