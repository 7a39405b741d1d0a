"""A source whose images have one size: the shorter side is resized, and the centre is cropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources.pictures import is_pictures, map_images, map_masks
from softlabels.sources.protocol import Columns, Source, Target
from softlabels.sources.wrapped import WrappedSource

MIN_SIZE, MAX_SIZE = 1, 8192
"""Bounds of the side of an image in pixels."""


class SizedSource(WrappedSource):
    """The rows of a source of images at one size; see Source for the methods.

    Images are resized bilinearly with antialiasing, and masks by nearest neighbour. Keys are those of the source, since
    they are of the images before any change.

    Args:
        source: Data of images.
        size: Height and width in pixels.

    Attributes:
        original: Data of images at their own sizes.
        size: Height and width in pixels.

    Raises:
        InvalidArgument: The size is out of range.
        InvalidData: The inputs are no images.

    Example:
        >>> from softlabels.sources import open_source
        >>> SizedSource(open_source("digits"), 16).inputs(np.array([0])).shape
        (1, 16, 16, 1)
    """

    def __init__(self, source: Source, size: int) -> None:
        if type(size) is not int or not MIN_SIZE <= size <= MAX_SIZE:
            raise InvalidArgument(f"size: out of range, got {size!r}; expected {MIN_SIZE} to {MAX_SIZE} pixels")
        if not is_pictures(source):
            raise InvalidData(
                f"{source.spec}: inputs are no images, got {source.input_dtype} of shape {source.input_shape}; "
                "expected uint8 of shape (H, W), (H, W, 1) or (H, W, 3). Leave out size="
            )
        super().__init__(source)
        self._size = size

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self._size

    @property
    def sizes(self) -> None:
        """None: the images have one size."""

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        columns = self.original.columns
        return replace(columns, computed=columns.id is None)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an image, (size, size, C)."""
        shape = self.original.input_shape
        return (self.size, self.size, 1 if len(shape) == 2 else shape[-1])

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the images, uint8."""
        return np.dtype(np.uint8)

    @property
    def targets(self) -> Mapping[str, Target]:
        """The ground truth by head; masks have the size of the images."""
        sized = (self.size, self.size)
        targets = self.original.targets.items()
        return {name: replace(t, shape=sized) if t.kind == "pixels" else t for name, t in targets}

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of ``rows``, (n, size, size, C) uint8."""
        from softlabels.views import center_view

        if len(rows) == 0:
            return np.empty((0, *self.input_shape), np.uint8)
        return np.stack(map_images(self.original, rows, lambda _place, image: center_view(image, self.size)))

    def target(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the target of the head ``name`` for ``rows``; masks at the size of the images."""
        from softlabels.views import center_mask

        target = self.targets.get(name)
        if target is None or target.kind != "pixels":
            return self.original.target(name, rows)
        masks = map_masks(self.original, name, rows, lambda _place, mask: center_mask(mask, self.size))
        return np.stack(masks) if masks else np.empty((0, self.size, self.size), np.int64)


def with_size(source: Source, size: int | None) -> Source:
    """Return a source at a size; the source itself without one.

    Args:
        source: The data.
        size: Height and width of the images in pixels; None: their own, which must be one.

    Raises:
        InvalidData: The images have several sizes and ``size`` is None, or the inputs are no images.
        InvalidArgument: The size is out of range.
    """
    if size is not None:
        return SizedSource(source, size)
    sizes: Any = getattr(source, "sizes", None)
    if sizes is not None:
        sizes.require_one()
    return source
