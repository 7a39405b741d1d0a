"""Encodings of one distribution per item, and their layout where a row has a fixed shape of positions.

An item is a row, a position of a ragged row, or a position of a fixed shape, such as a pixel. Subclasses encode, decode
and check items alone. Positions of a fixed shape are stored as planes: a column with entries of shape (K,) per item has
(K, H, W) per row. Neighbouring pixels mostly list the same classes, so a plane is long runs, which compress to little.
Columns with a varying number of entries per item keep the order of items.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.encodings.encoding import Block, Encoded, Encoding
from softlabels.labels import Head, SparseLabels
from softlabels.rng import at_positions, position_counters


class ItemEncoding(Encoding):
    """Encoding whose items are one distribution each."""

    @abstractmethod
    def item_columns(self, head: Head) -> dict[str, Column]:
        """Return the columns of a head with one item per row, a counting column before those it counts.

        Raises:
            InvalidArgument: The encoding does not support such a head.
        """

    @abstractmethod
    def encode_items(self, block: Block) -> Encoded:
        """Encode (B, C) values; arguments and errors as for ``Encoding.encode``."""

    @abstractmethod
    def decode_items(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """Decode the columns of items; arguments and errors as for ``Encoding.decode``."""

    @abstractmethod
    def check_items(self, arrays: Arrays, head: Head) -> None:
        """Raise ValueError unless every item decodes to a distribution."""

    def columns(self, head: Head) -> dict[str, Column]:
        """Return the columns of the items, with the positions of a row behind the shape of an entry."""
        return {
            name: replace(column, shape=(*column.shape, *head.position_shape)) if column.per is None else column
            for name, column in self.item_columns(head).items()
        }

    def encode_block(self, block: Block) -> Encoded:
        """See Encoding.encode_block."""
        head = block.head
        if not head.position_shape:
            return self.encode_items(block)
        positions = math.prod(head.position_shape)
        items = replace(
            block,
            values=block.values.reshape(-1, head.classes),
            rows=np.repeat(block.rows, positions),
            words=at_positions(block.words[:, None], np.arange(positions)).reshape(-1),
            counters=position_counters(block.counters, head.position_shape),
        )
        encoded = self.encode_items(items)
        return replace(encoded, arrays=as_planes(encoded.arrays, self.item_columns(head), head.position_shape))

    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See Encoding.decode."""
        if not head.position_shape:
            return self.decode_items(arrays, head, prior, widen=widen)
        items = as_items(arrays, self.item_columns(head), head.position_shape)
        return replace(self.decode_items(items, head, prior, widen=widen), shape=head.position_shape)

    def check(self, arrays: Arrays, head: Head) -> None:
        """See Encoding.check."""
        self.check_items(as_items(arrays, self.item_columns(head), head.position_shape), head)


def as_planes(arrays: Arrays, columns: Mapping[str, Column], shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Return columns of items as columns of rows with ``shape`` positions.

    Args:
        arrays: Columns of items by name.
        columns: Columns as ``item_columns`` returns them.
        shape: Positions of a row; () for one item per row.
    """
    if not shape:
        return dict(arrays)
    planes = {}
    for name, array in arrays.items():
        entry = columns[name].shape
        if columns[name].per is None:
            array = np.moveaxis(array.reshape(-1, math.prod(shape), *entry), 1, -1)  # noqa: PLW2901  the same column
            array = np.ascontiguousarray(array).reshape(-1, *entry, *shape)  # noqa: PLW2901
        planes[name] = array
    return planes


def as_items(arrays: Arrays, columns: Mapping[str, Column], shape: tuple[int, ...]) -> Arrays:
    """Return columns of rows with ``shape`` positions as columns of items; the inverse of ``as_planes``.

    Args:
        arrays: Columns of rows by name.
        columns: Columns as ``item_columns`` returns them.
        shape: Positions of a row; () for one item per row.
    """
    if not shape:
        return arrays
    items = {}
    for name, array in arrays.items():
        entry = columns[name].shape
        if columns[name].per is None:
            array = np.moveaxis(array.reshape(len(array), *entry, math.prod(shape)), -1, 1)  # noqa: PLW2901
            array = np.ascontiguousarray(array).reshape(-1, *entry)  # noqa: PLW2901
        items[name] = array
    return items
