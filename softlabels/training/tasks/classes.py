"""Terms of heads that are compared row by row, or pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from softlabels import losses
from softlabels.labels import SoftLabels
from softlabels.loading import Batch
from softlabels.training.tasks.objective import Outputs, Term


def hard_class_term(head: str, hard: NDArray[np.int64], *, weight: float = 1.0) -> Term:
    """Return the cross-entropy with hard labels.

    Args:
        head: Name of the head.
        hard: Hard labels by row of the data, -1 for a row without one.
        weight: Factor of the term.
    """

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        return losses.cross_entropy(outputs[head], hard[batch.rows])

    return Term(
        name="cross_entropy", loss=loss, count=lambda batch: float((hard[batch.rows] >= 0).sum()), weight=weight
    )


def soft_class_term(
    head: str, labels: Callable[[Batch], SoftLabels], *, temperature: float, weight: float = 1.0
) -> Term:
    """Return the KL divergence from soft labels.

    Args:
        head: Name of the head.
        labels: Returns the soft labels of a batch.
        temperature: Temperature of the KL.
        weight: Factor of the term.
    """

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        return losses.kl(outputs[head], labels(batch), temperature=temperature)

    return Term(name=f"kl at T = {temperature:g}", loss=loss, count=lambda batch: float(len(batch)), weight=weight)
