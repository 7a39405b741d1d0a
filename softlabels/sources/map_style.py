"""Any map-style dataset as a source: examples are named by ids, and collated by its own function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.keys import as_keys
from softlabels.sources.ids import require_unique
from softlabels.sources.keyed_source import KeyedSource
from softlabels.sources.protocol import Columns
from softlabels.sources.structure import map_arrays


class MapStyle(Protocol):
    """The interface that ``torch.utils.data.Dataset`` and ``datasets.Dataset`` share."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: int, /) -> Any:
        """Return one example."""


class DatasetSource(KeyedSource):
    """A source of the examples of a map-style dataset; see Source for its members.

    The dataset decodes and augments, so examples cannot be named by their content: ``ids`` name them, as they named
    the rows when the labels were made.

    Args:
        dataset: Dataset with ``len`` and examples by number.
        ids: Names of the examples, all different: text, whole numbers, or (n, 16) keys.
        collate: Function from a list of examples to the inputs of a batch, any structure of arrays or tensors; None
            for torch's own.
        spec: Name of the data in messages.

    Raises:
        InvalidData: There are no examples, or two have one id; names both.
        InvalidArgument: The number of ids is not that of examples, or an id is neither text nor a whole number.

    Example:
        >>> source = DatasetSource([1.5, 2.5], ids=["a", "b"], collate=np.array)
        >>> source.inputs(np.array([1])).tolist()
        [2.5]
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
            raise InvalidData(f"{spec}: the dataset has no examples")
        if len(ids) != len(dataset):
            raise InvalidArgument(f"{spec}: every example needs one id, got {len(ids)} ids for {len(dataset)} examples")
        self._dataset = dataset
        self._collate = collate
        keys = as_keys(ids)
        require_unique(keys, spec)
        super().__init__(spec, Columns(inputs=("example",), id="id"), keys)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Empty: the shape of examples is not known."""
        return ()

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """uint8: the dtype of examples is not known."""
        return np.dtype(np.uint8)

    def inputs(self, rows: NDArray[np.int64]) -> Any:
        """Return the examples of ``rows``, collated."""
        if len(rows) == 0:
            return map_arrays(self.inputs(np.zeros(1, np.int64)), lambda array: array[:0])
        examples = [self._dataset[int(row)] for row in rows]
        if self._collate is not None:
            return self._collate(examples)
        from torch.utils.data import default_collate

        return default_collate(examples)
