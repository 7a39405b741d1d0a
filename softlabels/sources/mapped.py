"""Any map-style dataset as a source: its examples are named by ids, and come as its own collation makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.keys import as_keys, fingerprint
from softlabels.sources.protocol import Columns
from softlabels.sources.structure import map_arrays


class MapStyle(Protocol):
    """What ``torch.utils.data.Dataset`` and ``datasets.Dataset`` have in common."""

    def __len__(self) -> int:
        """Examples."""

    def __getitem__(self, index: int, /) -> Any:
        """One of them."""


class DatasetSource:
    """A source of the examples of a map-style dataset; see Source for what its members mean.

    Decoding and augmentation stay the dataset's own business, so examples cannot be named by their content: ``ids``
    name them, as they named the rows when the labels were made.

    Args:
        dataset: with ``len`` and examples by number.
        ids: names of the examples, text or integers, or (n, 16) keys.
        collate: list of examples to inputs of a batch, any structure of arrays or tensors; None: torch's own.
        spec: what messages call it.

    Raises:
        InvalidData: no examples.
        InvalidArgument: another number of ids than of examples.
    """

    def __init__(
        self,
        dataset: MapStyle,
        ids: Sequence[object] | NDArray[Any],
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        spec: str = "dataset",
    ) -> None:
        if len(dataset) == 0:
            raise InvalidData(f"{spec} has no examples")
        if len(ids) != len(dataset):
            raise InvalidArgument(f"{spec} has {len(dataset)} examples, but there are {len(ids)} ids")
        self._dataset = dataset
        self._collate = collate
        self._spec = spec
        self._keys = as_keys(ids)
        self._fingerprint = fingerprint([self._keys])

    @property
    def spec(self) -> str:
        """What messages call it."""
        return self._spec

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        return Columns(inputs=("example",), id="id")

    @property
    def fingerprint(self) -> str:
        """Names the ordered keys."""
        return self._fingerprint

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Not known: examples are what the dataset makes them."""
        return ()

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Not known."""
        return np.dtype(np.uint8)

    @property
    def classes(self) -> None:
        """Hard labels, where there are some, are part of the examples."""

    @property
    def class_names(self) -> None:
        """There are none."""

    def __len__(self) -> int:
        return len(self._dataset)

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Keys of rows start to stop, (n, 16)."""
        return self._keys[start:stop]

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """The examples of ``rows``, collated."""
        if len(rows) == 0:
            return map_arrays(self.inputs(np.zeros(1, np.int64)), lambda array: array[:0])
        examples = [self._dataset[int(row)] for row in rows]
        if self._collate is not None:
            return self._collate(examples)
        from torch.utils.data import default_collate

        return default_collate(examples)

    def labels(self, rows: NDArray[np.int64]) -> None:
        """There are none beside the examples."""

    def split(self, name: str | None) -> NDArray[np.int64]:
        """All rows.

        Raises:
            InvalidArgument: a name was given; there are no splits.
        """
        if name is not None:
            raise InvalidArgument(f"{self._spec} has no split {name!r}: it has no split column")
        return np.arange(len(self), dtype=np.int64)

    def splits(self) -> tuple[str, ...]:
        """There are none."""
        return ()
