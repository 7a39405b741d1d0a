"""A table over a dataset of Hugging Face ``datasets``, read through its own row access."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources.arrow_types import plain_table


class HuggingFaceTable:
    """A table over a map-style dataset of ``datasets``; see Table for the methods.

    Args:
        dataset: A ``datasets.Dataset``, also with selected or shuffled rows.

    Raises:
        InvalidArgument: Several splits, or a dataset that can only be iterated over.
    """

    def __init__(self, dataset: Any) -> None:
        if not hasattr(dataset, "features") or not hasattr(dataset, "__getitem__"):
            raise InvalidArgument(
                f"data: unsupported type {type(dataset).__name__}; expected a dataset with rows by number. "
                'Name one split, such as data["train"]'
            )
        if dataset.features is None:
            raise InvalidArgument(f"data: a {type(dataset).__name__} has no schema; expected a datasets.Dataset")
        self.name = "dataset"
        self.schema: pa.Schema = dataset.features.arrow_schema
        self.decoded_rows = 0
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def select(self, columns: Sequence[str]) -> HuggingFaceTable:
        """Return the table restricted to ``columns``."""
        return HuggingFaceTable(self._dataset.select_columns(list(columns)))

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return ``columns`` of ``rows``, in that order.

        Raises:
            InvalidData: The dataset's files cannot be read.
        """
        try:
            table = self._dataset.with_format("arrow")[rows]
        except (pa.ArrowException, OSError) as error:
            raise InvalidData(f"{self.name}: cannot be read: {error}. Load it again") from error
        return plain_table(table.select(list(columns)), self.name)
