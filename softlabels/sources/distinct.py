"""A source without its repetitions: each input once, where it stands first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.keys import fingerprint
from softlabels.sources.protocol import Columns, Source

PIECE = 65_536


class DistinctSource:
    """The rows of a source whose key no earlier row has; see Source for what the methods mean.

    Equal inputs have equal keys, so labels of these rows serve all: the loader joins by key.

    Args:
        source: what to look through.

    Attributes:
        left_out: rows that repeat earlier ones.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        names = np.ascontiguousarray(source.keys()).view("S16").reshape(-1)
        _, first = np.unique(names, return_index=True)
        self._rows: NDArray[np.int64] = np.sort(first).astype(np.int64)
        self.left_out = len(source) - len(self._rows)
        pieces = range(0, len(self._rows), PIECE)
        self._fingerprint = fingerprint(self.keys(start, start + PIECE) for start in pieces)

    @property
    def spec(self) -> str:
        """What the user typed."""
        return self._source.spec

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        return self._source.columns

    @property
    def fingerprint(self) -> str:
        """Names the ordered keys of the rows that are kept."""
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
        """Number of classes the hard labels show; None without labels."""
        return self._source.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes where labels are text."""
        return self._source.class_names

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Keys of rows start to stop, (n, 16)."""
        return self._source.keys()[self._rows[start:stop]]

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """Inputs of ``rows``, as the source gives them."""
        return self._source.inputs(self._rows[rows])

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Hard labels of ``rows``; None without a label column."""
        return self._source.labels(self._rows[rows])

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Numbers of the rows whose split is ``name``; all rows for None."""
        return np.flatnonzero(np.isin(self._rows, self._source.split(name))).astype(np.int64)

    def splits(self) -> tuple[str, ...]:
        """The names in the split column."""
        return self._source.splits()
