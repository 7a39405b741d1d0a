"""What a source of examples is, and the roles its columns play."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of the data are what.

    Attributes:
        inputs: the column of model inputs, or several numeric columns that are stacked in this order.
        label: hard labels; None where there are none.
        id: names rows in place of their content; None: by content.
        split: says which part of the data a row belongs to; None: no such column.
    """

    inputs: tuple[str, ...]
    label: str | None = None
    id: str | None = None
    split: str | None = None


class Source(Protocol):
    """Examples by row number, with keys. Row numbers run from 0 to len(source) - 1."""

    @property
    def spec(self) -> str:
        """What the user typed."""

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""

    @property
    def fingerprint(self) -> str:
        """Names the ordered keys (hexadecimal)."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""

    @property
    def classes(self) -> int | None:
        """Number of classes the hard labels show (highest + 1); None without labels."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes where labels are text, in the order of their numbers."""

    def __len__(self) -> int:
        """Number of rows."""

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Keys of rows start to stop, (n, 16) uint8."""

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """Inputs of ``rows``, in that order, also of none: (n, *input_shape), Ragged, or a structure of arrays."""

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Hard labels of ``rows``, (n,), -1 where a row has none; None without a label column."""

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Numbers of the rows whose split is ``name``, ascending; all rows for None."""

    def splits(self) -> tuple[str, ...]:
        """The names in the split column, sorted; none without one."""
