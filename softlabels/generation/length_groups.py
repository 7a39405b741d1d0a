"""Predictions for rows of unequal length: rows of about one length are predicted together, so that little is padded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabels.columns import ranges
from softlabels.generation.outputs import HeadOutput
from softlabels.models import Model
from softlabels.models.model import MAX_LOGITS_BYTES
from softlabels.models.sliced_logits import SlicedLogits
from softlabels.sources import Ragged

GROUP_TOKENS = 2**14
"""Most tokens that a teacher sees at a time, padding included; a longer row is alone."""

Predictions = Mapping[str, Tensor | SlicedLogits]


def predict_outputs(model: Model, inputs: Any) -> dict[str, HeadOutput]:
    """Return the outputs of a batch by head, as ``predict_rows`` does, with the lengths of ragged rows.

    Args:
        model: The teacher.
        inputs: Inputs of the batch.
    """
    lengths = inputs.positions() if isinstance(inputs, Ragged) else None
    predictions = predict_rows(model, inputs)
    return {
        name: HeadOutput(predictions[name], lengths if head.ragged and predictions[name].ndim == 2 else None)
        for name, head in model.heads.items()
    }


def predict_rows(model: Model, inputs: Any) -> Predictions:
    """Return the outputs of a batch; rows of a text are predicted in groups of about one length.

    Args:
        model: The teacher.
        inputs: Inputs of the batch; anything but token rows with marks is predicted as it is.
    """
    if not isinstance(inputs, Ragged) or inputs.marks is None or model.listed is not None:
        return model.predict_sliced(inputs)
    lengths = np.asarray(inputs.lengths, dtype=np.int64)
    groups = groups_by_length(lengths)
    if len(groups) < 2:
        return model.predict_sliced(inputs)
    positions = inputs.positions()
    classes = max(head.classes for head in model.heads.values())
    # One decision for all groups: either every group's logits are sliced, or none.
    max_bytes = 0 if 4 * int(positions.sum()) * classes > MAX_LOGITS_BYTES else 2**62
    starts = np.cumsum(lengths) - lengths
    predicted = []
    for group in groups:
        entries = ranges(starts[group], lengths[group])
        rows = Ragged(inputs.values[entries], lengths[group], inputs.marks[entries])
        predicted.append(model.predict_sliced(rows, max_bytes=max_bytes))
    order = np.concatenate(groups)
    outputs: dict[str, Tensor | SlicedLogits] = {}
    for name, head in model.heads.items():
        counts = positions[order] if head.ragged else np.ones(len(order), np.int64)
        index = torch.from_numpy(_inverse(order, counts))
        values = [outputs_of_group[name] for outputs_of_group in predicted]
        sliced = [value for value in values if isinstance(value, SlicedLogits)]
        tensors = [value for value in values if isinstance(value, Tensor)]
        outputs[name] = SlicedLogits.concatenated(sliced, index) if sliced else torch.cat(tensors)[index]
    return outputs


def groups_by_length(lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows in groups of at most ``GROUP_TOKENS`` padded tokens, the longest first.

    Args:
        lengths: Tokens of each row, (B,).

    Example:
        >>> [group.tolist() for group in groups_by_length(np.array([9000, 10, 9000, 20]))]
        [[0], [2], [3, 1]]
    """
    order = np.argsort(-lengths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        longest = int(lengths[order[start]])
        # Rows that are much shorter than the longest of a group would be mostly padding.
        fitting = int(np.searchsorted(-lengths[order[start:]], -longest / 2, side="right"))
        count = max(1, min(fitting, GROUP_TOKENS // longest))
        groups.append(order[start : start + count])
        start += count
    return groups


def _inverse(order: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index that brings entries of rows in ``order`` back into the order of the rows."""
    starts = np.empty(len(order), np.int64)
    lengths = np.empty(len(order), np.int64)
    starts[order] = np.cumsum(counts) - counts
    lengths[order] = counts
    return ranges(starts, lengths)
