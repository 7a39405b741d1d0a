"""Outputs of a batch in the layout that encodings take: a tensor per head, and lengths if the head is ragged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import ranges
from softlabels.errors import InvalidArgument
from softlabels.generation.text_data import chosen_log_probs
from softlabels.labels import Head
from softlabels.losses import pool
from softlabels.models.sliced_logits import SlicedLogits
from softlabels.sources import Ragged

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HeadOutput:
    """Values of one head for a batch of rows.

    Attributes:
        values: Values without gradient, (B, *shape, C); of a ragged head the positions of all rows in order, (N, C),
            which may be computed when slices of them are read.
        lengths: Positions of each row, (B,); None unless the head is ragged.
    """

    values: Tensor | SlicedLogits
    lengths: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values if self.lengths is None else self.lengths)

    def take(self, rows: NDArray[np.int64]) -> HeadOutput:
        """Return the output of some rows, in their order, in memory of its own.

        Args:
            rows: Positions in the batch, (n,).
        """
        if self.lengths is None:
            return HeadOutput(self.values[rows])
        starts = np.cumsum(self.lengths) - self.lengths
        return HeadOutput(self.values[ranges(starts[rows], self.lengths[rows])], self.lengths[rows])


Outputs = Mapping[str, HeadOutput]
"""Outputs of a batch by head."""


def of_predictions(predictions: Mapping[str, Tensor | SlicedLogits], heads: Mapping[str, Head], inputs: Any) -> Outputs:
    """Return the predictions of a model in the layout of the store's heads.

    Args:
        predictions: Tensors by head, as ``Model.predict`` or ``predict_sliced`` return them.
        heads: Heads of the store.
        inputs: Inputs of the batch; ragged ones tell the lengths of ragged heads.

    Raises:
        InvalidArgument: Logits in slices belong to a head of a fixed shape.
    """
    outputs = {}
    for name, head in heads.items():
        values = chosen_log_probs(predictions, inputs) if name not in predictions else predictions[name]
        if head.ragged and values.ndim == 2 and isinstance(inputs, Ragged):
            outputs[name] = HeadOutput(values, inputs.positions())
        elif isinstance(values, SlicedLogits):
            raise InvalidArgument(f"head {name!r}: logits in slices belong to ragged rows, got a fixed shape")
        else:
            outputs[name] = _of_tensor(values, head)
    return outputs


def of_arrays(name: str, value: Any, head: Head, rows: int) -> HeadOutput:
    """Return what a user's loop computed for one head.

    Args:
        name: Name of the head.
        value: Array or tensor (B, *shape, C); of a ragged head also B arrays of (positions, C).
        head: The head.
        rows: Number of rows B.

    Raises:
        InvalidArgument: The number of rows or dimensions is wrong.
    """
    import torch

    if not head.ragged or (hasattr(value, "ndim") and value.ndim == 3):
        values = torch.as_tensor(value).detach()
        if values.ndim == 0 or len(values) != rows:
            raise InvalidArgument(
                f"head {name!r}: one output per key is needed, got shape {tuple(values.shape)} for {rows} keys"
            )
        return _of_tensor(values, head)
    sequences = [torch.as_tensor(sequence).detach() for sequence in value]
    if len(sequences) != rows or any(sequence.ndim != 2 for sequence in sequences):
        raise InvalidArgument(
            f"head {name!r}: ragged rows need one array (positions, classes) per key, got {len(sequences)} for {rows} "
            "keys"
        )
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    return HeadOutput(torch.cat(sequences) if sequences else torch.empty(0, head.classes), lengths)


def _of_tensor(values: Tensor, head: Head) -> HeadOutput:
    """Return a tensor as the output of a head; positions become ragged rows, or are downsampled, as the head is."""
    if not head.ragged:
        is_pooled = tuple(values.shape[1:-1]) == head.position_shape
        return HeadOutput(values if is_pooled else pool(values, head.downsample, head.kind))
    rows, length = values.shape[:2]
    return HeadOutput(values.reshape(rows * length, -1), np.full(rows, length, np.int64))
