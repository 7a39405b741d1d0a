"""Pictures of any source: images at their own size, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.sources.image_column import on_threads
from softlabels.sources.image_files import Pixels
from softlabels.sources.protocol import Source

Value = TypeVar("Value")

BLOCK_ROWS = 64
"""Rows of numbers that are read at a time."""


def map_images(source: Source, rows: NDArray[np.int64], change: Callable[[int, Pixels], Value]) -> list[Value]:
    """Return a function of each image of ``rows`` at its own size, computed on threads.

    Args:
        source: Data of images: files, or arrays of shape (H, W, C) or (H, W) in uint8.
        rows: (n,) row numbers.
        change: Function of the place in ``rows`` and the image, (H, W, C) uint8.

    Raises:
        UnreadableRow: Images cannot be read.
        InvalidData: The inputs are no images.

    Example:
        >>> from softlabels.sources import open_source
        >>> map_images(open_source("digits"), np.array([0]), lambda place, image: image.shape)
        [(8, 8, 1)]
    """
    own: Callable[..., list[Value]] | None = getattr(source, "map_images", None)
    return map_arrays_of(source, rows, change) if own is None else own(rows, change)


def map_masks(
    source: Source, name: str, rows: NDArray[np.int64], change: Callable[[int, NDArray[np.int64]], Value]
) -> list[Value]:
    """Return a function of each mask of the target ``name`` at its own size.

    Args:
        source: Data with a target of pixels.
        name: Name of the head.
        rows: (n,) row numbers.
        change: Function of the place in ``rows`` and the mask, (H, W) int64.

    Raises:
        UnreadableRow: Masks cannot be read.
        InvalidArgument: There is no such target.
    """
    own: Callable[..., list[Value]] | None = getattr(source, "map_masks", None)
    if own is not None:
        return own(name, rows, change)
    return [change(place, np.asarray(mask, np.int64)) for place, mask in enumerate(source.target(name, rows))]


def map_arrays_of(source: Source, rows: NDArray[np.int64], change: Callable[[int, Pixels], Value]) -> list[Value]:
    """Return a function of each image of a source whose inputs are arrays; see ``map_images``."""
    results: list[Value] = []
    for start in range(0, len(rows), BLOCK_ROWS):
        images = _as_images(source.inputs(rows[start : start + BLOCK_ROWS]), source.spec)

        def work(place: int, image: Pixels, start: int = start) -> Value:
            return change(start + place, image)

        results += on_threads(work, list(images))
    return results


def is_pictures(source: Source) -> bool:
    """Return True if the inputs of a source are images.

    Args:
        source: The data.
    """
    shape = source.input_shape
    is_layout = len(shape) == 2 or (len(shape) == 3 and shape[2] in {1, 3})
    return source.input_dtype == np.uint8 and (is_layout or getattr(source, "sizes", None) is not None)


def _as_images(inputs: Any, spec: str) -> Pixels:
    """Return inputs as (n, H, W, C) uint8."""
    if isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8:
        if inputs.ndim == 3:
            return inputs[..., None]
        if inputs.ndim == 4 and inputs.shape[3] in {1, 3}:
            return inputs
    layout = f"{inputs.dtype} of shape {inputs.shape[1:]}" if isinstance(inputs, np.ndarray) else type(inputs).__name__
    raise InvalidData(
        f"{spec}: inputs are no images, got {layout}; expected uint8 of shape (H, W), (H, W, 1) or (H, W, 3). Convert "
        "them, or leave out size= and views="
    )
