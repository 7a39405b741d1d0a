"""Base class of sources: keys, hard labels and splits of all rows in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.keys import fingerprint
from softlabels.sources.class_labels import ClassLabels
from softlabels.sources.protocol import LABEL_HEAD, Columns, Target
from softlabels.sources.split_names import Splits

HASHED_ROWS = 16_384
"""Rows whose keys are hashed at a time, since keys may lie in a file."""


class KeyedSource:
    """The keys, hard labels and splits of a source; see Source for the members. Subclasses add the inputs.

    Args:
        spec: DATA as the user typed it.
        columns: Roles of the columns.
        keys: Keys of the rows, (n, 16) uint8.
        labels: Hard labels; None: there are none.
        splits: Splits; None: there are none.
        name: Name of the data in messages; None: ``spec``.

    Example:
        >>> class Numbers(KeyedSource):
        ...     def inputs(self, rows):
        ...         return rows.astype(np.float32)
        >>> source = Numbers("numbers", Columns(inputs=("x",)), np.eye(3, 16, dtype=np.uint8))
        >>> len(source), source.splits(), source.labels(np.arange(3)), dict(source.targets)
        (3, (), None, {})
    """

    def __init__(
        self,
        spec: str,
        columns: Columns,
        keys: NDArray[np.uint8],
        *,
        labels: ClassLabels | None = None,
        splits: Splits | None = None,
        name: str | None = None,
    ) -> None:
        self._spec = spec
        self._columns = columns
        self._keys = keys
        self._labels = labels
        self._splits = splits
        self._name = spec if name is None else name
        self._fingerprint = fingerprint(keys[row : row + HASHED_ROWS] for row in range(0, len(keys), HASHED_ROWS))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with arrays of its own, without temporary files."""
        state = self.__dict__ | {"_keys": np.array(self._keys)}
        if self._labels is not None:
            state["_labels"] = replace(self._labels, codes=np.array(self._labels.codes))
        if self._splits is not None:
            state["_splits"] = replace(self._splits, codes=np.array(self._splits.codes))
        return state

    @property
    def spec(self) -> str:
        """DATA as the user typed it."""
        return self._spec

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        return self._columns

    @property
    def fingerprint(self) -> str:
        """Hash of the ordered keys, hexadecimal."""
        return self._fingerprint

    @property
    def classes(self) -> int | None:
        """Number of classes; None without labels."""
        return None if self._labels is None else self._labels.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their numbers; None if labels are plain numbers."""
        return None if self._labels is None else self._labels.names

    @property
    def targets(self) -> Mapping[str, Target]:
        """The ground truth by head: that of the hard labels if there are any."""
        if self.classes is None:
            return {}
        column = self.columns.label
        return {LABEL_HEAD: Target(kind="classes", classes=self.classes, class_names=self.class_names, column=column)}

    def __len__(self) -> int:
        return len(self._keys)

    def with_class_names(self, names: Sequence[str] | None) -> Self:
        """Return the same source with labels numbered by their position in ``names``.

        Raises:
            InvalidArgument: ``names`` are not different texts.
            InvalidData: The data has labels that are not in ``names``; lists them.
        """
        if self._labels is None:
            return self
        renamed = copy.copy(self)
        renamed._labels = self._labels.renamed(names, self._name)  # noqa: SLF001  a copy of this class
        return renamed

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return the keys of rows ``start`` to ``stop``, (n, 16)."""
        return self._keys[start:stop]

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the hard labels of ``rows``, -1 for a row without one; None without labels."""
        return None if self._labels is None else self._labels.take(rows)

    def target(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the hard labels of ``rows`` if ``name`` is their head; see Source.

        Raises:
            InvalidArgument: There is no such target; lists those there are.
        """
        labels = self.labels(rows) if name == LABEL_HEAD and self.classes is not None else None
        if labels is None:
            raise InvalidArgument(
                f"{self._spec}: no target {name!r}; it has: {', '.join(self.targets) or 'none'}. Name its column with "
                f"targets={{{name!r}: COLUMN}}"
            )
        return labels

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the rows of the split ``name``, in any known spelling; all rows for None.

        Raises:
            InvalidArgument: There is no such split; lists those there are.
        """
        if name is None:
            return np.arange(len(self), dtype=np.int64)
        return (self._splits or Splits((), np.empty(0, np.int16))).rows(name, self._name)

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, sorted; ``train``, ``validation`` and ``test`` in these spellings."""
        return () if self._splits is None else tuple(sorted(self._splits.names))
