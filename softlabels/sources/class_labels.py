"""Hard labels: a column of class numbers or class names, read once and numbered in a defined order.

Class numbers must not depend on the file. Names are normalised (NFC, no surrounding blanks) and sorted: by value if
all of them are numbers, so that "2" comes before "10", else by code point. A run and a store record the names; data
with other files' names is mapped onto them by name (``ClassLabels.renamed``).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources.arrow_types import is_binary, is_text, numbers_of, scalar_values
from softlabels.sources.scratch import ArrayBuilder

MAX_CLASSES = 2**24
"""Class numbers are below this: a column with larger ones holds quantities or identifiers."""
MAX_NAMES = 2**20
"""Distinct class names of a text column."""
NO_LABEL = -1
SCAN_ROWS = 2**20
LISTED = 8
"""Names listed in a message."""

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
WHOLE_NUMBER = re.compile(r"[+-]?\d+")


def normal_name(name: str) -> str:
    """Return a class name as it is compared: in Unicode form NFC, without surrounding blanks.

    Example:
        >>> normal_name(" cat ")
        'cat'
    """
    return unicodedata.normalize("NFC", name.strip())


def order_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in the order of their numbers.

    Example:
        >>> order_names(["10", "2"])
        ('2', '10')
        >>> order_names(["dog", "cat", "10"])
        ('10', 'cat', 'dog')
    """
    names = list(names)
    if all(NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (Decimal(name), name)))
    return tuple(sorted(names))


@dataclass(frozen=True)
class ClassLabels:
    """The hard labels of all rows of a source.

    Attributes:
        codes: (n,) int32, a number per row in the order of ``own_names`` or a plain class number; -1 without a label.
        own_names: Names of the codes; None if the column holds plain class numbers.
        names: Names of the classes by number; None for plain class numbers.
        classes: Number of classes; None if no row has a label.
        numbers: (codes,) class number of each code; None if codes are class numbers.
    """

    codes: NDArray[np.int32]
    own_names: tuple[str, ...] | None
    names: tuple[str, ...] | None
    classes: int | None
    numbers: NDArray[np.int64] | None = None

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class numbers of ``rows``, -1 without a label."""
        codes = np.asarray(self.codes[rows], np.int64)
        return codes if self.numbers is None else np.append(self.numbers, NO_LABEL)[codes]

    def renamed(self, names: Sequence[str] | None, name: str) -> ClassLabels:
        """Return the same labels numbered by their position in ``names``.

        Text is mapped by name. Plain class numbers are mapped by name if all ``names`` are whole numbers, else they
        are positions in ``names``. With None, labels must be class numbers, or text that is whole numbers.

        Args:
            names: Names of the classes by number.
            name: Name of the data, for messages.

        Raises:
            InvalidArgument: ``names`` repeat, or hold something else than text.
            InvalidData: Labels occur that are not in ``names``; lists them.
        """
        if names is None:
            return self._as_numbers(name)
        normal = [normal_name(class_name) for class_name in names if isinstance(class_name, str)]
        if len(normal) < len(names) or len({*normal}) < len(normal) or "" in normal:
            raise InvalidArgument(f"class names must be different texts, got {list(names)[:LISTED]!r}")
        position = {class_name: number for number, class_name in enumerate(normal)}
        used = self._used_codes()
        if self.own_names is None and not all(WHOLE_NUMBER.fullmatch(class_name) for class_name in normal):
            self._check_known([str(code) for code in used if code >= len(normal)], normal, name)
            if used and used[0] > 0:  # numbers that count from 1 would be shifted by one without a word
                raise InvalidData(
                    f"{name}: class numbers for named classes that lack 0, got {used[0]} to {used[-1]}; expected "
                    f"positions from 0 in {_listed(normal)}. Use the names of the classes as labels"
                )
            return replace(self, names=tuple(normal), classes=len(normal))
        if self.own_names is None:
            position = {str(int(class_name)): number for class_name, number in position.items()}
        texts = [str(code) if self.own_names is None else self.own_names[code] for code in used]
        self._check_known([text for text in texts if text not in position], normal, name)
        numbers = np.full(used[-1] + 1 if used else 0, NO_LABEL)
        numbers[used] = [position[text] for text in texts]
        return replace(self, names=tuple(normal), classes=len(normal), numbers=numbers)

    def _as_numbers(self, name: str) -> ClassLabels:
        used = self._used_codes()
        texts = [str(code) if self.own_names is None else self.own_names[code] for code in used]
        if self.own_names is not None and self.numbers is None:  # numbers that the file names
            texts = [str(code) for code in used]
        others = [text for text in texts if not WHOLE_NUMBER.fullmatch(text) or not 0 <= int(text) < MAX_CLASSES]
        if others:
            raise InvalidData(
                f"{name}: labels must be class numbers, got {_listed(others)}. "
                "The classes have no names; use data with class numbers"
            )
        numbers = np.full(used[-1] + 1 if used else 0, NO_LABEL)
        numbers[used] = [int(text) for text in texts]
        return replace(self, names=None, numbers=numbers, classes=int(numbers.max(initial=NO_LABEL)) + 1 or None)

    def _used_codes(self) -> list[int]:
        """Return the codes that occur, ascending."""
        used: set[int] = set()
        for start in range(0, len(self.codes), SCAN_ROWS):
            used.update(np.unique(self.codes[start : start + SCAN_ROWS]).tolist())
        return sorted(used - {NO_LABEL})

    @staticmethod
    def _check_known(unknown: Sequence[str], names: Sequence[str], name: str) -> None:
        if unknown:
            raise InvalidData(
                f"{name}: {len(unknown)} labels are not among the class names, got {_listed(unknown)}; "
                f"expected {_listed(names)}. Use data of the same classes, or name another column with label="
            )


class LabelReader:
    """Reads a label column block by block.

    Args:
        rows: Number of rows of the source.
        name: Name of the data and the column, for messages.
        names: Names of plain class numbers, where the file records them; None otherwise.

    Example:
        >>> reader = LabelReader(3, "data, column 'label'")
        >>> reader.append(pa.array(["dog", "cat", ""]), 0)
        >>> labels = reader.finish()
        >>> labels.names, labels.take(np.arange(3)).tolist()
        (('cat', 'dog'), [1, 0, -1])
    """

    def __init__(self, rows: int, name: str, names: Sequence[str] | None = None) -> None:
        self._name = name
        self._builder = ArrayBuilder(rows, (), np.dtype(np.int32))
        self._names = names
        self._codes: dict[str, int] = {}
        self._textual = False
        self._highest = NO_LABEL

    def append(self, values: pa.Array, first_row: int) -> None:
        """Add the labels of the next rows.

        Raises:
            InvalidData: Values that are no labels; names the row.
        """
        values = scalar_values(values, self._name, first_row)
        if is_text(values.type) or is_binary(values.type):
            self._textual = True
            codes = self._text_codes(values, first_row)
        elif pa.types.is_null(values.type):
            codes = np.full(len(values), NO_LABEL)
        else:
            codes = self._number_codes(values, first_row)
            self._highest = max(self._highest, int(codes.max(initial=NO_LABEL)))
        self._builder.append(codes.astype(np.int32))

    def finish(self) -> ClassLabels:
        """Return the labels once all rows are there.

        Raises:
            InvalidData: A class number has no name although the file names the classes.
        """
        codes = self._builder.finish().view(np.int32)
        if self._textual:
            own = tuple(self._codes)
            names = order_names(own)
            position = {class_name: number for number, class_name in enumerate(names)}
            numbers = np.array([position[class_name] for class_name in own], np.int64)
            return ClassLabels(codes, own, names, len(names) or None, numbers)
        if self._names is not None and self._highest < len(self._names):
            names = tuple(self._names)
            return ClassLabels(codes, names, names, len(names))
        return ClassLabels(codes, None, None, self._highest + 1 or None)

    def _text_codes(self, values: pa.Array, first_row: int) -> NDArray[np.int64]:
        encoded = values.dictionary_encode()
        try:
            texts = [
                normal_name(str(v, "utf-8") if isinstance(v, bytes) else v) for v in encoded.dictionary.to_pylist()
            ]
        except UnicodeDecodeError as error:
            raise InvalidData(
                f"{self._name}, rows {first_row} to {first_row + len(values) - 1}: a label is not UTF-8 text: {error}. "
                "Save the file as UTF-8"
            ) from error
        own = np.array(
            [self._codes.setdefault(text, len(self._codes)) if text else NO_LABEL for text in texts], np.int64
        )
        if len(self._codes) > MAX_NAMES:
            raise InvalidData(
                f"{self._name}: more than {MAX_NAMES:,} different labels; expected class names. "
                "Name another column with label=, or use label=False"
            )
        places = numbers_of(encoded.indices, null=-1).astype(np.int64)
        return np.where(places < 0, NO_LABEL, np.append(own, NO_LABEL)[places])

    def _number_codes(self, values: pa.Array, first_row: int) -> NDArray[np.int64]:
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        elif pa.types.is_decimal(values.type) or pa.types.is_floating(values.type):
            values = values.cast(pa.float64())
        elif not pa.types.is_integer(values.type):
            raise InvalidData(
                f"{self._name}: labels must be whole numbers or text, got {values.type}. "
                "Name another column with label=, or use label=False"
            )
        numbers = numbers_of(values, null=0)
        missing = numbers_of(values.is_null()).copy()
        if numbers.dtype.kind == "f":
            missing |= np.isnan(numbers)
            self._check(numbers != np.floor(numbers), missing, numbers, first_row, "not a whole number")
        self._check(numbers < NO_LABEL, missing, numbers, first_row, "negative")
        self._check(numbers >= MAX_CLASSES, missing, numbers, first_row, f"too large (at most {MAX_CLASSES - 1:,})")
        return np.where(missing, NO_LABEL, np.where(missing, 0, numbers).astype(np.int64))

    def _check(
        self,
        wrong: NDArray[np.bool_],
        missing: NDArray[np.bool_],
        numbers: NDArray[np.generic],
        first_row: int,
        problem: str,
    ) -> None:
        wrong = wrong & ~missing
        if wrong.any():
            row = int(wrong.argmax())
            raise InvalidData(
                f"{self._name}, row {first_row + row}: the label {numbers[row]} is {problem}; expected a class number "
                "from 0, and null or -1 for none. Name another column with label=, or use label=False"
            )


def recorded_names(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """Return the class names of a column that Hugging Face ``datasets`` records in a schema; None if there are none."""
    try:
        info: Any = json.loads((metadata or {})[b"huggingface"])
        feature = info["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    normal = tuple(normal_name(name) for name in names)
    return normal if len({*normal}) == len(normal) and all(normal) else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:LISTED])) + (", ..." if len(names) > LISTED else "")
