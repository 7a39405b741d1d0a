"""Base class of sources that change some members of another source."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from softlabels.sources.image_files import Pixels
from softlabels.sources.image_sizes import ImageSizes
from softlabels.sources.pictures import map_images, map_masks
from softlabels.sources.protocol import Columns, Source, Target

Value = TypeVar("Value")


class WrappedSource:
    """A source with the members of another one; see Source for them. Subclasses override what they change.

    Args:
        source: Source to forward to.

    Attributes:
        original: Source to forward to.

    Example:
        >>> from softlabels.sources import open_source
        >>> class Negated(WrappedSource):
        ...     def inputs(self, rows):
        ...         return 255 - self.original.inputs(rows)
        >>> source = Negated(open_source("digits"))
        >>> len(source), source.classes, source.inputs(np.array([0])).max()
        (1797, 10, np.uint8(255))
    """

    def __init__(self, source: Source) -> None:
        self.original = source

    @property
    def spec(self) -> str:
        """DATA as the user typed it."""
        return self.original.spec

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        return self.original.columns

    @property
    def fingerprint(self) -> str:
        """Hash of the ordered keys, hexadecimal."""
        return self.original.fingerprint

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.original.input_shape

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""
        return self.original.input_dtype

    @property
    def classes(self) -> int | None:
        """Number of classes; None without labels."""
        return self.original.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their numbers; None if labels are plain numbers."""
        return self.original.class_names

    @property
    def targets(self) -> Mapping[str, Target]:
        """The ground truth by head."""
        return self.original.targets

    @property
    def size(self) -> int | None:
        """Height and width that images are resized to, in pixels; None if they are not."""
        size: int | None = getattr(self.original, "size", None)
        return size

    @property
    def sizes(self) -> ImageSizes | None:
        """Sizes of the images that rows hold as files; None if inputs have one shape."""
        sizes: ImageSizes | None = getattr(self.original, "sizes", None)
        return sizes

    def __len__(self) -> int:
        return len(self.original)

    def with_class_names(self, names: Sequence[str] | None) -> Self:
        """Return the same source with labels numbered by their position in ``names``."""
        renamed = copy.copy(self)
        renamed.original = self.original.with_class_names(names)
        return renamed

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return the keys of rows ``start`` to ``stop``, (n, 16)."""
        return self.original.keys(start, stop)

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """Return the inputs of ``rows``, in the form of the source."""
        return self.original.inputs(rows)

    def map_images(self, rows: NDArray[np.int64], change: Callable[[int, Pixels], Value]) -> list[Value]:
        """Return a function of each image of ``rows`` at its own size; see ``softlabels.sources.map_images``."""
        return map_images(self.original, rows, change)

    def map_masks(
        self, name: str, rows: NDArray[np.int64], change: Callable[[int, NDArray[np.int64]], Value]
    ) -> list[Value]:
        """Return a function of each mask at its own size; see ``softlabels.sources.map_masks``."""
        return map_masks(self.original, name, rows, change)

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the hard labels of ``rows``; None without a label column."""
        return self.original.labels(rows)

    def target(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the target of the head ``name`` for ``rows``."""
        return self.original.target(name, rows)

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the rows of the split ``name``; all rows for None."""
        return self.original.split(name)

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, sorted."""
        return self.original.splits()
