"""Soft and hard labels together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from softlabels.errors import InvalidArgument
from softlabels.labels import SoftLabels
from softlabels.losses.distributions import cross_entropy, kl
from softlabels.losses.matching import Mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def distillation(
    student_logits: Tensor,
    labels: SoftLabels,
    hard: Tensor | NDArray[np.int64] | None = None,
    *,
    temperature: float = 1.0,
    alpha: float = 0.9,
    mask: Mask = None,
) -> Tensor:
    """Alpha * T^2 * KL to the teacher + (1 - alpha) * cross-entropy with hard labels (Hinton, Vinyals, Dean 2015).

    Args:
        student_logits: (..., C).
        labels: what the teacher said of these rows.
        hard: (N,) class numbers, -1 where a row has none; None: there are none at all.
        temperature: of the KL.
        alpha: weight of the soft labels, 0 to 1.
        mask: N booleans, or weights; of both parts.

    Raises:
        InvalidArgument: as kl, or alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise InvalidArgument(f"alpha weighs soft against hard labels and lies between 0 and 1; it is {alpha}")
    soft = kl(student_logits, labels, temperature=temperature, mask=mask)
    if hard is None:
        return alpha * soft
    return alpha * soft + (1 - alpha) * cross_entropy(student_logits, hard, mask=mask)
