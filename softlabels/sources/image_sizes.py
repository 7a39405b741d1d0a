"""Sizes of the images of a source: one for all, or several, which need ``--size``."""

from __future__ import annotations

from collections.abc import Sequence

from softlabels.errors import InvalidData

Size = tuple[int, int]
"""Height and width."""


class ImageSizes:
    """The sizes of images, collected in one pass over the rows.

    Args:
        name: Name of the data and the column, for messages.

    Attributes:
        last: Sizes of the rows that were added last; None for images that cannot be read.

    Example:
        >>> sizes = ImageSizes("photos")
        >>> sizes.append([(4, 6), None, (4, 6)], 0)
        >>> sizes.common()
        (4, 6)
    """

    def __init__(self, name: str) -> None:
        self.last: list[Size | None] = []
        self._name = name
        self._first: tuple[int, Size] | None = None
        self._other: tuple[int, Size] | None = None

    def append(self, sizes: Sequence[Size | None], first_row: int) -> None:
        """Add the sizes of the next rows.

        Args:
            sizes: Height and width of each image; None for one that cannot be read.
            first_row: Number of the first of these rows.
        """
        self.last = list(sizes)
        for row, size in enumerate(sizes, first_row):
            if size is None:
                continue
            if self._first is None:
                self._first = row, size
            elif self._other is None and size != self._first[1]:
                self._other = row, size

    def common(self) -> Size | tuple[()]:
        """Return the size of all images; () if there are several.

        Raises:
            InvalidData: No image can be read.
        """
        if self._first is None:
            raise InvalidData(
                f"{self._name}: no image can be read, got only files that are no images, truncated or missing; "
                "expected JPEG, PNG, WebP, GIF, BMP, TIFF or PPM. Check the paths and the files"
            )
        return self._first[1] if self._other is None else ()

    def require_one(self) -> None:
        """Raise InvalidData if images have several sizes."""
        if self._first is not None and self._other is not None:
            (row, size), (other_row, other) = self._first, self._other
            raise InvalidData(
                f"{self._name}: images of several sizes, got {size[0]}x{size[1]} in row {row} and {other[0]}x"
                f"{other[1]} in row {other_row}; expected one. Resize and crop them with size=, such as size=224"
            )
