"""Masks of class numbers: nested lists of a table, and files of images.

Masks of 8 bits ignore pixels of 255, as Pascal VOC and Cityscapes do; others ignore -1.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.image_column import ImageColumn
from softlabels.sources.image_sizes import ImageSizes
from softlabels.sources.inputs import column_array
from softlabels.sources.protocol import Target
from softlabels.sources.target_values import TargetValues

IGNORED = 255
"""Value of ignored pixels in masks of 8 bits."""
MAX_PIXEL_CLASSES = 2**15
"""Class numbers of pixels are below this: a mask with larger ones holds quantities or colours."""


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
        summaries = self._images.summaries(values)
        sizes = [None if summary is None else summary[:2] for summary in summaries]
        self._sizes.append(sizes, first_row)
        for place, summary in enumerate(summaries):
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
