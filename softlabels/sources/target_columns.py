"""Columns of targets: class numbers or names, masks of class numbers, and vectors of numbers.

A column is classes if it holds whole numbers or text, a regression if it holds fractions or lists of numbers, and
pixels if it holds lists of lists of whole numbers. Masks of 8 bits ignore pixels of 255, as Pascal VOC and Cityscapes
do; others ignore -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.arrow_types import is_list, is_number, is_tensor, is_text, numbers_of, value_type
from softlabels.sources.class_labels import ClassLabels, LabelReader, recorded_names
from softlabels.sources.image_column import ImageColumn
from softlabels.sources.image_sizes import ImageSizes
from softlabels.sources.inputs import column_array
from softlabels.sources.protocol import Target, TargetColumn, TargetKind
from softlabels.sources.scratch import ArrayBuilder

IGNORED = 255
"""Value of ignored pixels in masks of 8 bits."""
MAX_PIXEL_CLASSES = 2**15
"""Class numbers of pixels are below this: a mask with larger ones holds quantities or colours."""


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


class PixelReader:
    """Checks masks and counts their classes; see TargetReader for the methods.

    Args:
        column: Name of the column.
        name: Name of the data and the column, for messages.
    """

    def __init__(self, column: str, name: str) -> None:
        self._column = column
        self._name = name
        self._shape: tuple[int, ...] | None = None
        self._highest = -1

    def append(self, values: pa.Array, first_row: int) -> None:
        """Check the masks of the next rows.

        Raises:
            InvalidData: Masks differ in shape, or hold something else than class numbers; names the row.
        """
        masks = class_mask(mask_array(values, self._name, first_row), self._name, first_row)
        if self._shape is None:
            self._shape = masks.shape[1:]
        if masks.shape[1:] != self._shape:
            raise InvalidData(
                f"{self._name}, row {first_row}: masks must have one shape, got {masks.shape[1:]}; expected "
                f"{self._shape} as in row 0"
            )
        self._highest = max(self._highest, int(masks.max(initial=-1)))

    def finish(self) -> TargetValues:
        """Return the description; masks are read from the table when they are needed."""
        target = Target(kind="pixels", classes=self._highest + 1, shape=self._shape or (), column=self._column)
        return TargetValues(target=target)


class MaskReader:
    """Checks masks in files of images and counts their classes; see TargetReader for the methods.

    A mask that cannot be decoded is an error once its row is read.

    Args:
        column: Name of the column.
        images: The column as images.
        name: Name of the data and the column, for messages.
        sizes: Sizes of the inputs; None if inputs are no files of images.
    """

    def __init__(self, column: str, images: ImageColumn, name: str, sizes: ImageSizes | None) -> None:
        self._column = column
        self._images = images
        self._name = name
        self._inputs = sizes
        self._sizes = ImageSizes(name)
        self._highest = -1

    def append(self, values: pa.Array, first_row: int) -> None:
        """Check the masks of the next rows.

        Raises:
            InvalidData: A mask has another size than its image, or a class number out of range; names the row.
        """
        looked = self._images.summaries(values)
        sizes = [None if summary is None else summary[:2] for summary in looked]
        self._sizes.append(sizes, first_row)
        for place, summary in enumerate(looked):
            file = self._images.describe(values[place].as_py())
            if summary is not None and summary[2] >= MAX_PIXEL_CLASSES:
                raise InvalidData(
                    f"{self._name}, row {first_row + place}{file}: not a mask of class numbers, got {summary[2]}; "
                    f"expected less than {MAX_PIXEL_CLASSES}"
                )
            if self._inputs is not None and summary is not None:
                size = self._inputs.last[place] if self._inputs.last else None
                if size is not None and size != summary[:2]:
                    raise InvalidData(
                        f"{self._name}, row {first_row + place}{file}: the mask has another size than its image, got "
                        f"{summary[0]}x{summary[1]}; expected {size[0]}x{size[1]}. Correct the mask"
                    )
            self._highest = max(self._highest, -1 if summary is None else summary[2])

    def finish(self) -> TargetValues:
        """Return the description; masks are decoded when they are needed."""
        shape = self._sizes.common()
        target = Target(kind="pixels", classes=self._highest + 1, shape=shape, column=self._column)
        return TargetValues(target=target)


def mask_array(values: pa.Array, name: str, first_row: int) -> NDArray[np.generic]:
    """Return a column of nested lists as masks, (n, H, W).

    Args:
        values: (n,) lists of lists of whole numbers.
        name: Name of the data and the column, for messages.
        first_row: Number of the first row, for messages.

    Raises:
        InvalidData: A mask is null, or has another number of dimensions.
    """
    masks = column_array(pa.chunked_array([values]), name, np.arange(first_row, first_row + len(values)))
    if masks.ndim != 3 or masks.dtype.kind not in "biu":
        raise InvalidData(
            f"{name}: not masks, got {masks.dtype} of shape {masks.shape[1:]}; expected whole numbers of shape (H, W)"
        )
    return masks


def class_mask(masks: NDArray[np.generic], name: str, first_row: int) -> NDArray[np.int64]:
    """Return masks as class numbers, (n, H, W) int64, with -1 for ignored pixels.

    Args:
        masks: (n, H, W) whole numbers; 255 is ignored in uint8, -1 in others.
        name: Name of the data and the column, for messages.
        first_row: Number of the first row, for messages.

    Raises:
        InvalidData: A number is out of range; names the row.

    Example:
        >>> class_mask(np.array([[[0, 255]]], np.uint8), "drive", 0).tolist()
        [[[0, -1]]]
    """
    classes = masks.astype(np.int64)
    if masks.dtype == np.uint8:
        classes[classes == IGNORED] = -1
    invalid = ((classes < -1) | (classes >= MAX_PIXEL_CLASSES)).reshape(len(classes), -1).any(axis=1)
    if invalid.any():
        row = int(invalid.argmax())
        outside = classes[row][(classes[row] < -1) | (classes[row] >= MAX_PIXEL_CLASSES)]
        raise InvalidData(
            f"{name}, row {first_row + row}: not a mask of class numbers, got {outside[0]}; expected 0 to "
            f"{MAX_PIXEL_CLASSES - 1}, or -1 for ignored pixels"
        )
    return classes


def described(targets: Mapping[str, TargetValues]) -> dict[str, Target]:
    """Return the descriptions of targets that have values.

    Args:
        targets: Targets by head.
    """
    return {head: values.target for head, values in targets.items() if values.target.classes}
