"""The interface of a data source, and the roles of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class UnusedColumn:
    """A column of the data that has no role.

    Attributes:
        name: Name of the column.
        reason: Why it is not used, in a few words.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The roles of the columns of a source.

    Attributes:
        inputs: Column of model inputs, or several numeric columns, which are stacked in this order.
        label: Column of hard labels; None if there is none.
        id: Column that names rows instead of their content; None to name rows by content.
        split: Column that assigns rows to splits such as ``train`` and ``test``; None if there is none.
        unused: Columns without a role, each with the reason.
        stacked: If True, ``inputs`` are scalar columns that form one vector per row, even if there is only one.

    Example:
        >>> Columns(inputs=("a", "b"), label="y").used()
        ['a', 'b', 'y']
    """

    inputs: tuple[str, ...]
    label: str | None = None
    id: str | None = None
    split: str | None = None
    unused: tuple[UnusedColumn, ...] = ()
    stacked: bool = False

    def used(self) -> list[str]:
        """Return the names of all columns that have a role, each once."""
        roles = [*self.inputs, self.label, self.id, self.split]
        return list(dict.fromkeys(name for name in roles if name is not None))


@runtime_checkable
class Source(Protocol):
    """Examples by row number, with keys. Rows are numbered from 0 to ``len(source) - 1``."""

    @property
    def spec(self) -> str:
        """DATA as the user typed it; used in messages."""

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""

    @property
    def fingerprint(self) -> str:
        """Hash of the ordered keys, hexadecimal."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""

    @property
    def classes(self) -> int | None:
        """Number of classes: of ``class_names``, else the highest label + 1; None without labels."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their numbers; None if labels are plain numbers."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def with_class_names(self, names: Sequence[str] | None) -> Self:
        """Return the same source with labels numbered by their position in ``names``."""

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return the keys of rows ``start`` to ``stop``, (n, 16) uint8."""

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """Return the inputs of ``rows``, in that order: (n, *input_shape), Ragged, or a structure of arrays.

        The memory belongs to the caller, who may change it.
        """

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the hard labels of ``rows``, (n,), -1 for a row without one; None without a label column."""

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the rows of the split ``name``, (n,) ascending; all rows for None."""

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, sorted; empty without a split column."""
