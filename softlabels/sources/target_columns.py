"""Columns of targets: class numbers or names, masks of class numbers, and vectors of numbers.

A column is classes if it holds whole numbers or text, a regression if it holds fractions or lists of numbers, and
pixels if it holds lists of lists of whole numbers.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.arrow_types import is_list, is_number, is_tensor, is_text, numbers_of, value_type
from softlabels.sources.class_labels import LabelReader, recorded_names
from softlabels.sources.image_column import ImageColumn
from softlabels.sources.image_sizes import ImageSizes
from softlabels.sources.masks import MaskReader, PixelReader
from softlabels.sources.protocol import Target, TargetColumn, TargetKind
from softlabels.sources.scratch import ArrayBuilder
from softlabels.sources.target_values import TargetReader, TargetValues


def open_target(
    column: TargetColumn,
    schema: pa.Schema,
    rows: int,
    name: str,
    images: ImageColumn | None = None,
    sizes: ImageSizes | None = None,
) -> TargetReader:
    """Return the reader of a column of targets.

    Args:
        column: The column, and the head it is for.
        schema: Types and metadata of all columns.
        rows: Number of rows of the source.
        name: Name of the data, for messages.
        images: The column as images, if it holds encoded masks.
        sizes: Sizes of the inputs, which masks must have; None if inputs are no files of images.

    Raises:
        InvalidData: The column has a type that cannot be a target of its kind.

    Example:
        >>> schema = pa.schema([("angle", pa.float32())])
        >>> reader = open_target(TargetColumn(head="steering", column="angle"), schema, 2, "drive")
        >>> reader.append(pa.array([0.5, -1.0], pa.float32()), 0)
        >>> reader.finish().target.kind
        'regression'
    """
    name = f"{name}, column {column.column!r}"
    if images is not None:
        return MaskReader(column.column, images, name, sizes)
    kind = column.kind or kind_of_type(schema.field(column.column).type, name)
    metadata = schema.field(column.column).metadata or {}
    if kind == "classes":
        return ClassReader(column.column, LabelReader(rows, name, recorded_names(schema.metadata, column.column)))
    if kind == "regression":
        unit = metadata.get(b"unit")
        return RegressionReader(column.column, rows, name, None if unit is None else unit.decode(errors="replace"))
    return PixelReader(column.column, name)


def kind_of_type(column_type: pa.DataType, name: str) -> TargetKind:
    """Return the kind of target that a column of a type holds.

    Args:
        column_type: Type of the column.
        name: Name of the data and the column, for messages.

    Raises:
        InvalidData: The type is neither text nor numbers.

    Example:
        >>> kind_of_type(pa.list_(pa.list_(pa.uint8())), "drive, column 'mask'")
        'pixels'
    """
    column_type = value_type(column_type)
    depth = 0
    inner = column_type
    while is_list(inner):
        inner, depth = value_type(inner.value_type), depth + 1
    if depth == 0 and (is_text(inner) or pa.types.is_integer(inner) or pa.types.is_boolean(inner)):
        return "classes"
    if depth <= 1 and is_number(inner):
        return "regression"
    if depth == 2 and is_tensor(column_type) and (pa.types.is_integer(inner) or pa.types.is_boolean(inner)):
        return "pixels"
    raise InvalidData(
        f"{name}: cannot be a target, got {column_type}; expected class numbers or names, numbers, lists of numbers, "
        "or masks of class numbers as lists of lists. Name another column with targets="
    )


class ClassReader:
    """Reads classes; see TargetReader for the methods.

    Args:
        column: Name of the column.
        labels: Reader of its values.
    """

    def __init__(self, column: str, labels: LabelReader) -> None:
        self._column = column
        self._labels = labels

    def append(self, values: pa.Array, first_row: int) -> None:
        """Add the classes of the next rows."""
        self._labels.append(values, first_row)

    def finish(self) -> TargetValues:
        """Return the classes."""
        labels = self._labels.finish()
        target = Target(
            kind="classes", classes=labels.classes or 0, class_names=labels.names, column=self._column
        )  # fmt: skip
        return TargetValues(target=target, classes=labels)


class RegressionReader:
    """Reads numbers or vectors of one width; see TargetReader for the methods.

    Args:
        column: Name of the column.
        rows: Number of rows of the source.
        name: Name of the data and the column, for messages.
        unit: Unit of the values; None if unknown.
    """

    def __init__(self, column: str, rows: int, name: str, unit: str | None = None) -> None:
        self._column = column
        self._rows = rows
        self._name = name
        self._unit = unit
        self._builder: ArrayBuilder | None = None
        self._width = 0
        self._missing = 0  # rows before the first vector, whose width is not known yet

    def append(self, values: pa.Array, first_row: int) -> None:
        """Add the vectors of the next rows; null and NaN are missing values.

        Raises:
            InvalidData: A value is infinite or too large for float32, or vectors have several widths; names the row.
        """
        if self._builder is None and values.null_count == len(values):
            self._missing += len(values)
            return
        numbers = self._numbers(values, first_row)
        if self._builder is None:
            self._width = numbers.shape[1]
            self._builder = ArrayBuilder(self._rows, (self._width,), np.dtype(np.float32))
            self._builder.append(np.full((self._missing, self._width), np.nan, np.float32))
        if numbers.shape[1] != self._width:
            raise InvalidData(
                f"{self._name}, row {first_row}: vectors must have one width, got {numbers.shape[1]} values; expected "
                f"{self._width} as in row 0"
            )
        infinite = np.isinf(numbers).any(axis=1)
        if infinite.any():
            row = first_row + int(infinite.argmax())
            raise InvalidData(
                f"{self._name}, row {row}: not finite as float32, got {values[row - first_row].as_py()!r}; expected "
                "a number, or null or NaN for a missing one"
            )
        self._builder.append(numbers)

    def finish(self) -> TargetValues:
        """Return the vectors."""
        target = Target(kind="regression", classes=self._width, unit=self._unit, column=self._column)
        if self._builder is None:
            return TargetValues(target=target, numbers=np.full((self._rows, 0), np.nan, np.float32))
        return TargetValues(target=target, numbers=self._builder.finish())

    def _numbers(self, values: pa.Array, first_row: int) -> NDArray[np.float32]:
        """Return the values as (n, width) float32; a null row is NaN throughout."""
        if is_list(values.type):
            present = values.drop_null()
            rows = np.flatnonzero(numbers_of(values.is_valid()))
            numbers = np.full((len(values), self._width or 1), np.nan, np.float32)
            if len(present):
                flat = self._floats(present.flatten(), first_row)
                lengths = numbers_of(present.value_lengths())
                if (lengths != lengths[0]).any() or lengths[0] == 0:
                    row = first_row + int(rows[int((lengths != lengths[0]).argmax())])
                    raise InvalidData(
                        f"{self._name}, row {row}: vectors must have one width of at least 1, got lengths "
                        f"{sorted({*lengths.tolist()})[:4]}"
                    )
                numbers = np.full((len(values), int(lengths[0])), np.nan, np.float32)
                numbers[rows] = flat.reshape(len(present), -1)
            return numbers
        return self._floats(values, first_row)[:, None]

    def _floats(self, values: pa.Array, first_row: int) -> NDArray[np.float32]:
        if pa.types.is_null(values.type):
            return np.full(len(values), np.nan, np.float32)
        if not is_number(values.type):
            raise InvalidData(
                f"{self._name}, row {first_row}: not a number, got values of type {values.type}; expected numbers"
            )
        with np.errstate(over="ignore"):
            numbers = numbers_of(values.cast(pa.float64(), safe=False))
            return np.asarray(numbers, np.float32)
