"""Measurement of a model on labelled rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidData, InvalidLogits
from softlabels.models import DEFAULT_HEAD, Model
from softlabels.sources import Source

BATCH_ROWS = 1024


def accuracy(model: Model, source: Source, rows: NDArray[np.int64]) -> float:
    """Return the share of labelled rows whose likeliest class is the hard label, 0 to 1.

    Args:
        model: The model.
        source: Labelled data.
        rows: Row numbers, (n,); rows without a label are left out.

    Raises:
        InvalidData: None of the rows has a label.
        InvalidLogits: Outputs are NaN, or no class is finite; names the first row.

    Example:
        >>> import torch
        >>> from softlabels.models import as_model
        >>> from softlabels.sources import as_source
        >>> source = as_source((np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0])))
        >>> accuracy(as_model(torch.nn.Identity(), sample=source.inputs(np.arange(1))), source, np.arange(2))
        0.5
    """
    right = labelled = 0
    head = class_head(model)
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        labels = source.labels(batch)
        if labels is None:
            break
        logits = model.predict(source.inputs(batch))[head].float()
        # -inf rules a class out, which is fine for all but one.
        invalid = logits.isnan().any(dim=-1) | logits.isposinf().any(dim=-1) | ~logits.isfinite().any(dim=-1)
        if invalid.any():
            raise InvalidLogits(
                f"{model.spec}: outputs are not finite, got NaN or infinity in {int(invalid.sum())} of {len(batch)} "
                f"rows, first in row {int(batch[int(invalid.int().argmax())])}; expected logits. Training has "
                "diverged, or the weights are damaged"
            )
        predicted = logits.argmax(dim=-1).cpu().numpy()
        known = labels >= 0
        right += int((predicted[known] == labels[known]).sum())
        labelled += int(known.sum())
    if labelled == 0:
        raise InvalidData(
            f"{source.spec}: no hard labels to measure with, got {len(rows)} rows without one; expected labelled rows"
        )
    return right / labelled


def class_head(model: Model) -> str:
    """Return the head that is compared with hard labels: ``logits``, or the only head of one class per row.

    Args:
        model: The model.

    Raises:
        InvalidData: There is no such head, or there are several.
    """
    heads = [name for name, head in model.heads.items() if head.kind == "classes" and head.shape == ()]
    if DEFAULT_HEAD in heads:
        return DEFAULT_HEAD
    if len(heads) != 1:
        raise InvalidData(
            f"{model.spec}: no head to compare with hard labels, got {', '.join(model.heads)}; expected one head of "
            "classes per row"
        )
    return heads[0]
