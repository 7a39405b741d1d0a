"""The targets of all rows of a source, and the interface of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.sources.class_labels import ClassLabels
from softlabels.sources.protocol import Target


class TargetReader(Protocol):
    """Reads a column of targets block by block."""

    def append(self, values: pa.Array, first_row: int) -> None:
        """Add the values of the next rows.

        Raises:
            InvalidData: A value is no target of the kind; names the row.
        """

    def finish(self) -> TargetValues:
        """Return the targets once all rows are there."""


@dataclass(frozen=True, kw_only=True)
class TargetValues:
    """The targets of all rows of a source.

    Attributes:
        target: Description of the target.
        classes: Values of a target of kind classes.
        numbers: (n, width) float32, values of a regression.
    """

    target: Target
    classes: ClassLabels | None = None
    numbers: NDArray[np.generic] = field(default_factory=lambda: np.empty(0, np.float32))

    def in_memory(self) -> TargetValues:
        """Return the same targets without temporary files, for another process."""
        classes = None if self.classes is None else replace(self.classes, codes=np.array(self.classes.codes))
        return replace(self, classes=classes, numbers=np.array(self.numbers))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the values of ``rows``; not for pixels, which are read from the table."""
        return self.classes.take(rows) if self.classes is not None else np.array(self.numbers[rows])


def described(targets: Mapping[str, TargetValues]) -> dict[str, Target]:
    """Return the descriptions of targets that have values.

    Args:
        targets: Targets by head.
    """
    return {head: values.target for head, values in targets.items() if values.target.classes}
