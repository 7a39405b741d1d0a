"""Objectives: the sum of weighted losses that a run minimises, one objective for each head.

A term is one loss of one head, a mean over some rows or positions of a batch. An objective weighs the terms of a head;
objectives are the sum over all heads. A new task makes terms; the training loop knows objectives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from softlabels.loading import Batch

Outputs: TypeAlias = Mapping[str, Tensor]
"""Outputs of a network by head, or its final states under ``language.STATES``."""

Loss: TypeAlias = Callable[[Outputs, Batch], Tensor]
"""Maps outputs and the batch to a scalar."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One loss of one head.

    Attributes:
        name: Text of the loss, such as ``kl at T = 4``.
        loss: Mean over the rows or positions of a batch that count.
        count: Number of these rows or positions.
        weight: Factor of the loss.
    """

    name: str
    loss: Loss
    count: Callable[[Batch], float]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The terms of one head.

    Attributes:
        head: Name of the head.
        terms: Losses; those of weight 0 are not computed.
        weight: Factor of their sum.

    Example:
        >>> term = Term(name="kl", loss=lambda outputs, batch: outputs["logits"].sum(), count=len, weight=0.9)
        >>> str(Objective(head="logits", terms=(term,)))
        '0.9 * kl'
    """

    head: str
    terms: tuple[Term, ...]
    weight: float = 1.0

    def __str__(self) -> str:
        shown = " + ".join(term.name if term.weight == 1 else f"{term.weight:g} * {term.name}" for term in self.terms)
        return shown if self.weight == 1 else f"{self.weight:g} * ({shown})"


class Objectives:
    """The sum of the objectives of a run; maps (outputs by head, batch) to a scalar.

    Args:
        objectives: Objectives of the heads.

    Attributes:
        objectives: Objectives of the heads.

    Example:
        >>> term = Term(name="sum", loss=lambda outputs, batch: outputs["logits"].sum(), count=len)
        >>> import numpy as np, torch
        >>> batch = Batch(epoch=0, step=0, rows=np.arange(2))
        >>> objectives = Objectives([Objective(head="logits", terms=(term,), weight=2.0)])
        >>> float(objectives({"logits": torch.ones(2, 3)}, batch))
        12.0
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = tuple(objectives)
        self._terms = [
            (objective.weight * term.weight, term)
            for objective in self.objectives
            for term in objective.terms
            if objective.weight * term.weight != 0
        ]

    def __call__(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the weighted sum of the losses of a batch.

        Args:
            outputs: Outputs by head.
            batch: The batch.
        """
        values = [weight * term.loss(outputs, batch) for weight, term in self._terms]
        return sum(values[1:], values[0])

    def __str__(self) -> str:
        return " + ".join(f"{objective.head}: {objective}" for objective in self.objectives)
