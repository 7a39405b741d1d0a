"""Splits: a column that assigns rows to training, validation and test, in any usual spelling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources.arrow_types import is_binary, is_number, is_text, numbers_of, scalar_values
from softlabels.sources.scratch import ArrayBuilder

TRAIN, VALIDATION, TEST = "train", "validation", "test"

SPELLINGS = {
    TRAIN: ("train", "training", "trn", "tr"),
    VALIDATION: ("validation", "validate", "valid", "val", "dev", "development"),
    TEST: ("test", "testing", "tst", "te"),
}
MAX_SPLITS = 1000
"""Names of splits in a column; more are values of another kind."""

_CANONICAL = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}


def canonical_split(name: str) -> str:
    """Return the name of a split without case and blanks if it is a known spelling, else without blanks.

    Example:
        >>> canonical_split(" Training"), canonical_split("dev"), canonical_split("Fold 1")
        ('train', 'validation', 'Fold 1')
    """
    return _CANONICAL.get(name.strip().casefold(), name.strip())


@dataclass(frozen=True)
class Splits:
    """The split of each row.

    Attributes:
        names: Names of the splits, in no order.
        codes: (n,) int16, position in ``names``; -1 for a row without a split.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int16]

    def rows(self, split: str, name: str) -> NDArray[np.int64]:
        """Return the rows of a split, ascending.

        Args:
            split: Name of the split, in any known spelling.
            name: Name of the data, for messages.

        Raises:
            InvalidArgument: There is no such split; lists those there are.
        """
        canonical = canonical_split(split)
        if canonical not in self.names:
            known = f"its splits are {', '.join(sorted(self.names))}" if self.names else "it has no split column"
            raise InvalidArgument(f"{name}: no split {split!r}; {known}")
        return np.flatnonzero(self.codes == self.names.index(canonical)).astype(np.int64)


class SplitReader:
    """Reads a split column block by block.

    Args:
        rows: Number of rows of the source.
        name: Name of the data and the column, for messages.

    Example:
        >>> reader = SplitReader(3, "data, column 'split'")
        >>> reader.append(pa.array(["Training", "test", "TRAIN"]), 0)
        >>> reader.finish().rows("train", "data").tolist()
        [0, 2]
    """

    def __init__(self, rows: int, name: str) -> None:
        self._name = name
        self._builder = ArrayBuilder(rows, (), np.dtype(np.int16))
        self._codes: dict[str, int] = {}

    def append(self, values: pa.Array, first_row: int) -> None:
        """Add the splits of the next rows; null and blank values are missing.

        Raises:
            InvalidData: Values that are no names, or more than a thousand different ones.
        """
        values = scalar_values(values, self._name, first_row)
        if pa.types.is_null(values.type):
            self._builder.append(np.full(len(values), -1, np.int16))
            return
        if not (is_text(values.type) or is_binary(values.type) or is_number(values.type)):
            raise InvalidData(
                f"{self._name}: splits must be text or whole numbers, got {values.type}. Rename the column"
            )
        encoded = values.dictionary_encode()
        names = [canonical_split(self._text(value)) for value in encoded.dictionary.to_pylist()]
        own = np.array([self._codes.setdefault(name, len(self._codes)) if name else -1 for name in names] + [-1])
        if len(self._codes) > MAX_SPLITS:
            raise InvalidData(
                f"{self._name}: more than {MAX_SPLITS:,} different splits; expected a few names, as train and test. "
                "Rename the column"
            )
        self._builder.append(own[numbers_of(encoded.indices, null=-1)].astype(np.int16))

    def finish(self) -> Splits:
        """Return the splits once all rows are there."""
        return Splits(tuple(self._codes), self._builder.finish().view(np.int16))

    def _text(self, value: object) -> str:
        if isinstance(value, bytes):
            return value.decode("utf-8", errors="replace").rstrip("\0")
        if isinstance(value, float) and value.is_integer():
            return str(int(value))  # whole numbers beside missing ones become floating point in pandas
        if not isinstance(value, str | int):
            raise InvalidData(f"{self._name}: splits must be text or whole numbers, got {value!r}. Rename the column")
        return str(value)
