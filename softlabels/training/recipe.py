"""Options of a training run."""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass, fields

from softlabels.errors import InvalidArgument
from softlabels.models.run_record import RecipeValue

DEFAULT_EPOCHS = 20.0

WHOLE_NUMBERS = ("steps", "batch_size", "seed", "hard_labels")
RANGES = {"alpha": (0.0, 1.0), "warmup": (0.0, 1.0)}
MAY_BE_ZERO = ("alpha", "warmup", "weight_decay")


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
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                number = _whole_number(field.name, value) if field.name in WHOLE_NUMBERS else _number(field.name, value)
                object.__setattr__(self, field.name, number)

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


def _whole_number(name: str, value: object) -> int:
    """Return an integer of any type, such as NumPy's, as int."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # refused below if it is no integer
    except TypeError:
        raise InvalidArgument(f"{name}: not a whole number, got {value!r}; expected an integer") from None
    if number < 1 and name != "seed":
        raise InvalidArgument(f"{name}: out of range, got {number}; expected a number above 0")
    return number


def _number(name: str, value: object) -> float:
    """Return a number of any type as float."""
    try:
        number = float(value)  # type: ignore[arg-type]  # refused below if it is no number
    except (TypeError, ValueError):
        raise InvalidArgument(f"{name}: not a number, got {value!r}; expected a number") from None
    low, high = RANGES.get(name, (0.0, math.inf))
    in_range = low <= number <= high and number < math.inf
    if not in_range or (number == 0 and name not in MAY_BE_ZERO):
        expected = "a number above 0" if high == math.inf else f"{low:g} to {high:g}"
        raise InvalidArgument(f"{name}: out of range, got {number:g}; expected {expected}")
    return number
