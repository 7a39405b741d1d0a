"""A source without repeated inputs: each one where it occurs first."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from softlabels.keys import fingerprint
from softlabels.sources.image_files import Pixels
from softlabels.sources.pictures import map_images, map_masks
from softlabels.sources.protocol import Columns, Source, Target

Value = TypeVar("Value")

HASHED_ROWS = 65_536
"""Keys that are hashed at a time."""


class DistinctSource:
    """The rows of a source whose key no earlier row has; see Source for the methods.

    Equal inputs have equal keys, so labels of these rows serve all rows: the loader joins by key.

    Args:
        source: Source whose rows may repeat.

    Attributes:
        left_out: Number of rows that repeat earlier ones.

    Example:
        >>> from softlabels.sources import as_source
        >>> source = DistinctSource(as_source(np.array([[1.0], [2.0], [1.0]])))
        >>> len(source), source.left_out
        (2, 1)
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        names = np.ascontiguousarray(source.keys()).view("S16").reshape(-1)
        _, first = np.unique(names, return_index=True)
        self._rows: NDArray[np.int64] = np.sort(first).astype(np.int64)
        self.left_out = len(source) - len(self._rows)
        starts = range(0, len(self._rows), HASHED_ROWS)
        self._fingerprint = fingerprint(self.keys(start, start + HASHED_ROWS) for start in starts)

    @property
    def original(self) -> Source:
        """The source whose rows may repeat."""
        return self._source

    @property
    def size(self) -> int | None:
        """Height and width that images are resized to, in pixels; None if they are not."""
        size: int | None = getattr(self._source, "size", None)
        return size

    @property
    def spec(self) -> str:
        """DATA as the user typed it."""
        return self._source.spec

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        return self._source.columns

    @property
    def fingerprint(self) -> str:
        """Hash of the ordered keys of these rows, hexadecimal."""
        return self._fingerprint

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self._source.input_shape

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""
        return self._source.input_dtype

    @property
    def classes(self) -> int | None:
        """Number of classes; None without labels."""
        return self._source.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their numbers; None if labels are plain numbers."""
        return self._source.class_names

    @property
    def targets(self) -> Mapping[str, Target]:
        """The ground truth by head."""
        return self._source.targets

    def __len__(self) -> int:
        return len(self._rows)

    def with_class_names(self, names: Sequence[str] | None) -> Self:
        """Return the same source with labels numbered by their position in ``names``."""
        renamed = copy.copy(self)
        renamed._source = self._source.with_class_names(names)  # noqa: SLF001  a copy of this class
        return renamed

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return the keys of rows ``start`` to ``stop``, (n, 16)."""
        return self._source.keys()[self._rows[start:stop]]

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """Return the inputs of ``rows``, in the form of the source."""
        return self._source.inputs(self._rows[rows])

    def map_images(self, rows: NDArray[np.int64], change: Callable[[int, Pixels], Value]) -> list[Value]:
        """Return a function of each image of ``rows`` at its own size; see ``softlabels.sources.map_images``."""
        return map_images(self._source, self._rows[rows], change)

    def map_masks(
        self, name: str, rows: NDArray[np.int64], change: Callable[[int, NDArray[np.int64]], Value]
    ) -> list[Value]:
        """Return a function of each mask at its own size; see ``softlabels.sources.map_masks``."""
        return map_masks(self._source, name, self._rows[rows], change)

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the hard labels of ``rows``; None without a label column."""
        return self._source.labels(self._rows[rows])

    def target(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the target of the head ``name`` for ``rows``."""
        return self._source.target(name, self._rows[rows])

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the rows of the split ``name``; all rows for None."""
        return np.flatnonzero(np.isin(self._rows, self._source.split(name))).astype(np.int64)

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, sorted."""
        return self._source.splits()
