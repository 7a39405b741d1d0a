"""Options of a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from softlabels.errors import InvalidArgument
from softlabels.models.run_record import RecipeValue

DEFAULT_EPOCHS = 20.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of a training run; together with data, labels and network they decide its result.

    Attributes:
        steps: Number of optimiser steps; None: from ``epochs``.
        epochs: Passes over the rows; None, with ``steps`` None too: 20.
        batch_size: Rows per step.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        warmup: Share of the steps in which the rate rises linearly, 0 to 1; then it falls along a cosine to 0.
        clip: Greatest norm of the gradient.
        seed: Seed of the initial weights, dropout, the order of rows, and the choice of hard labels.
        hard_labels: Number of training rows whose hard labels are used; None: all.
        temperature: Temperature of the KL; None: the highest the labels were captured at.
        alpha: Weight of the soft labels against the hard ones, 0 to 1.

    Raises:
        InvalidArgument: A value is out of range.

    Example:
        >>> Recipe(epochs=2).total_steps(steps_per_epoch=10)
        20
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    seed: int = 0
    hard_labels: int | None = None
    temperature: float | None = None
    alpha: float = 0.9

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise InvalidArgument(f"steps and epochs: got {self.steps} and {self.epochs}; expected one of them")
        for name in ("steps", "epochs", "batch_size", "lr", "clip", "hard_labels", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidArgument(f"{name}: out of range, got {value}; expected a number above 0")
        for name in ("alpha", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidArgument(f"{name}: out of range, got {getattr(self, name)}; expected 0 to 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InvalidArgument(f"weight_decay: out of range, got {self.weight_decay}; expected 0 or more")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimiser steps.

        Args:
            steps_per_epoch: Steps of one pass over the rows.
        """
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or DEFAULT_EPOCHS) * steps_per_epoch))

    def learning_rate(self, step: int, total: int) -> float:
        """Return the learning rate of a step: a linear rise over the first ``warmup``, then a cosine to 0.

        Args:
            step: Number of the step, 0 to total - 1.
            total: Number of steps.
        """
        rise = max(1, round(self.warmup * total))
        if step < rise:
            return self.lr * (step + 1) / rise
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))

    def to_json(self) -> dict[str, RecipeValue]:
        """Return the fields as ``run.json`` holds them."""
        return asdict(self)
