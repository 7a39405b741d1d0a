"""What a training run is told, all of it: a recipe names its result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from blake3 import blake3

from softlabels.errors import InvalidArgument

DEFAULT_EPOCHS = 20.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        steps: optimiser steps; None: from ``epochs``.
        epochs: passes over the rows; None, with ``steps`` None too: 20.
        batch_size: rows a step.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises linearly; then it falls along a cosine to 0.
        clip: the gradient's norm is cut to this.
        seed: of the initial weights, of the order of rows, of the choice of hard labels.
        hard_labels: know the hard labels of so many training rows only; None: of all.
        temperature: of the KL; None: the highest the labels were captured at.
        alpha: weight of the soft labels against the hard ones.
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
            raise InvalidArgument("give steps or epochs, not both")
        for name in ("steps", "epochs", "batch_size", "lr", "clip", "hard_labels", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidArgument(f"{name} must be above 0, not {value}")
        if not 0 <= self.alpha <= 1:
            raise InvalidArgument(f"alpha weighs soft against hard labels and lies between 0 and 1; it is {self.alpha}")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps in all."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or DEFAULT_EPOCHS) * steps_per_epoch))

    def learning_rate(self, step: int, total: int) -> float:
        """Rate of step 0 to total - 1: a linear rise over the first ``warmup`` of them, then a cosine to 0."""
        rise = max(1, round(self.warmup * total))
        if step < rise:
            return self.lr * (step + 1) / rise
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))

    def to_json(self) -> dict[str, Any]:
        """As run.json holds it."""
        return asdict(self)


def identity(information: Mapping[str, Any]) -> str:
    """Names what a run was told (recipe, model, data, labels): BLAKE3 of its JSON, hexadecimal."""
    return str(blake3(json.dumps(information, sort_keys=True).encode()).hexdigest())
