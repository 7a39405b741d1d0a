"""Objectives: the sum of weighted losses that a run minimises, one objective for each head.

A term is one loss of one head, a mean over some rows or positions of a batch. An objective weighs the terms of a head;
objectives are the sum over all heads. A new task makes terms; the training loop knows objectives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
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
        is_soft: If True, the loss needs soft labels.
    """

    name: str
    loss: Loss
    count: Callable[[Batch], float]
    weight: float = 1.0
    is_soft: bool = False


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
            (objective.head, objective.weight * term.weight, term)
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
        return self.share(outputs, batch, self.counts(batch))

    def __str__(self) -> str:
        return " + ".join(f"{objective.head}: {objective}" for objective in self.objectives)

    def __len__(self) -> int:
        """Return the number of terms."""
        return len(self._terms)

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weight of each term, (terms,)."""
        return np.array([weight for _, weight, _ in self._terms], np.float64)

    def without_soft(self) -> Objectives:
        """Return the objectives of rows that have no soft labels."""
        hard = [replace(o, terms=tuple(term for term in o.terms if not term.is_soft)) for o in self.objectives]
        return Objectives([objective for objective in hard if objective.terms])

    def values(self, outputs: Outputs, batch: Batch) -> NDArray[np.float64]:
        """Return the mean of each term for a batch, without its weight, (terms,); 0 for a term without rows.

        Args:
            outputs: Outputs by head.
            batch: The batch.
        """
        counted = zip(self._terms, self.counts(batch), strict=True)
        return np.array([float(term.loss(outputs, batch)) if n else 0.0 for (_, _, term), n in counted], np.float64)

    @property
    def heads(self) -> list[str]:
        """The heads that some loss depends on."""
        return list(dict.fromkeys(head for head, _, _ in self._terms))

    def counts(self, batch: Batch) -> NDArray[np.float64]:
        """Return the number of rows or positions that each term of a batch is a mean over, (terms,).

        Args:
            batch: The batch.
        """
        return np.array([float(term.count(batch)) for _, _, term in self._terms], np.float64)

    def share(self, outputs: Outputs, batch: Batch, totals: NDArray[np.float64], head: str | None = None) -> Tensor:
        """Return the share of a batch in the loss of a step that has several.

        The shares of the batches of a step add up to the loss of all their rows in one batch.

        Args:
            outputs: Outputs by head.
            batch: The batch.
            totals: Sums of ``counts`` over the batches of the step, (terms,).
            head: Head whose losses are added; None: all.
        """
        total = next(iter(outputs.values())).new_zeros((), dtype=torch.float32)
        counted = zip(self._terms, self.counts(batch), totals, strict=True)
        for (name, weight, term), count, everything in counted:
            if count > 0 and head in {None, name}:
                total = total + weight * (count / everything) * term.loss(outputs, batch)
        return total
