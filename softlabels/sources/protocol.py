"""The interface of a data source, the roles of its columns, and its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

TargetKind = Literal["classes", "pixels", "regression"]
"""Kinds of targets: one class a row, one class a pixel, or a vector of numbers."""
LABEL_HEAD = "logits"
"""Head of the hard labels."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Ground truth of one head.

    Attributes:
        kind: ``classes``, ``pixels`` or ``regression``.
        classes: Number of classes; width of the vector of a regression.
        shape: Positions of a row: (H, W) for pixels, else ().
        class_names: Names of the classes by number; None if classes are plain numbers.
        unit: Unit of a regression, such as ``degrees``; None if unknown.
        column: Column that holds the values; None if the source computes them.

    Example:
        >>> Target(kind="regression", classes=1, unit="degrees").shape
        ()
    """

    kind: TargetKind
    classes: int
    shape: tuple[int, ...] = ()
    class_names: tuple[str, ...] | None = None
    unit: str | None = None
    column: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the target as plain values for JSON.

        Example:
            >>> Target(kind="classes", classes=3, column="label").to_json()["classes"]
            3
        """
        return {
            "kind": self.kind,
            "classes": self.classes,
            "shape": list(self.shape),
            "class_names": None if self.class_names is None else list(self.class_names),
            "unit": self.unit,
            "column": self.column,
        }


@dataclass(frozen=True, kw_only=True)
class TargetColumn:
    """A column that holds the target of a head.

    Attributes:
        head: Name of the head.
        column: Name of the column.
        kind: Kind of the target; None to choose it by the type of the column.
    """

    head: str
    column: str
    kind: TargetKind | None = None


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
        targets: Columns of the targets of other heads than that of the hard labels.
        computed: If True, keys are of what the inputs are computed from, such as the bytes of an image file. Otherwise
            they are of the inputs, or ids.

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
    targets: tuple[TargetColumn, ...] = ()
    computed: bool = False

    @property
    def has_input_keys(self) -> bool:
        """True if keys are hashes of the inputs, so that inputs can be checked against them."""
        return self.id is None and not self.computed

    def used(self) -> list[str]:
        """Return the names of all columns that have a role, each once."""
        targets = [target.column for target in self.targets]
        roles = [*self.inputs, self.label, self.id, self.split, *targets]
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

    @property
    def targets(self) -> Mapping[str, Target]:
        """The ground truth by head; the hard labels are that of ``logits``. Empty without labels."""

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

    def target(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the target of the head ``name`` for ``rows``.

        Classes are (n,) int64 with -1 for a row without one. Pixels are (n, H, W) int64 with -1 for pixels that are
        ignored. Regressions are (n, width) float32 with NaN for values that are missing.
        """

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the rows of the split ``name``, (n,) ascending; all rows for None."""

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, sorted; empty without a split column."""
