"""Targets of sources whose only ground truth is hard labels, or that have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.sources.protocol import Columns, Target

LABEL_HEAD = "logits"
"""Head of the hard labels."""


class Labelled(Protocol):
    """The members of a source that describe its hard labels."""

    @property
    def spec(self) -> str:
        """DATA as the user typed it."""

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""

    @property
    def classes(self) -> int | None:
        """Number of classes; None without labels."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes; None if labels are plain numbers."""

    @property
    def targets(self) -> Mapping[str, Target]:
        """The ground truth by head."""

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the hard labels of ``rows``; None without any."""


class SingleTarget:
    """The members ``targets`` and ``target`` of a source without targets beside its hard labels.

    Example:
        >>> from softlabels.sources import TokenSource
        >>> dict(TokenSource([[1, 2, 3]]).targets)
        {}
    """

    @property
    def targets(self: Labelled) -> Mapping[str, Target]:
        """The ground truth by head: that of the hard labels if there are any."""
        target = label_target(self)
        return {} if target is None else {LABEL_HEAD: target}

    def target(self: Labelled, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the hard labels of ``rows``, (n,) int64.

        Raises:
            InvalidArgument: ``name`` is not the head of the hard labels, or there are none.
        """
        labels = self.labels(rows) if name in self.targets else None
        if labels is None:
            raise unknown_target(self.spec, name, self.targets)
        return labels


def label_target(source: Labelled) -> Target | None:
    """Return the target of the hard labels of a source; None if it has none.

    Args:
        source: The source.
    """
    if source.classes is None:
        return None
    return Target(kind="classes", classes=source.classes, class_names=source.class_names, column=source.columns.label)


def unknown_target(spec: str, name: str, targets: Mapping[str, Target]) -> InvalidArgument:
    """Return the error about a target that a source does not have.

    Args:
        spec: DATA as the user typed it.
        name: Name of the head.
        targets: Targets of the source.
    """
    known = ", ".join(targets) or "none"
    return InvalidArgument(
        f"{spec}: no target {name!r}; it has: {known}. Name its column with targets={{{name!r}: COLUMN}}"
    )
