"""Measuring a model on labelled rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.models import Model
from softlabels.sources import Source

BATCH = 1024


def accuracy(model: Model, source: Source, rows: NDArray[np.int64]) -> float:
    """Share of the labelled ones among ``rows`` whose likeliest class is the hard label.

    Raises:
        InvalidData: none of the rows has a label.
    """
    right = labelled = 0
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        labels = source.labels(part)
        if labels is None:
            break
        predicted = model.logits(source.inputs(part)).argmax(dim=-1).cpu().numpy()
        known = labels >= 0
        right += int((predicted[known] == labels[known]).sum())
        labelled += int(known.sum())
    if labelled == 0:
        raise InvalidData(f"none of {len(rows)} rows of {source.spec} has a hard label to measure with")
    return right / labelled
