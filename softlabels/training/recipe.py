"""Options of a training run."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, get_args

from softlabels.errors import InvalidArgument
from softlabels.models.run_record import RecipeValue

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["float32", "bf16", "fp16"]
Views = Literal["one", "all", "mean"]

Text: TypeAlias = str | Mapping[str, str]
"""One text for all heads, or one for each head; the head ``*`` stands for all others."""
Number: TypeAlias = float | Mapping[str, float]
"""One number for all heads, or one for each head; the head ``*`` stands for all others."""

Value = TypeVar("Value", str, float)

DEFAULT_EPOCHS = 20.0
OTHER_HEADS = "*"
"""Key of an option by head that holds for all heads that are not named."""

WHOLE_NUMBERS = ("steps", "batch_size", "seed", "hard_labels", "accumulation", "eval_every", "patience", "log_every")
CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "precision": get_args(Precision),
    "views": get_args(Views),
}
SWITCHES = ("compile", "gradient_checkpointing")
BY_HEAD = ("loss", "weight", "temperature", "alpha")
"""Options that may differ between heads."""

RANGES = {"alpha": (0.0, 1.0), "warmup": (0.0, 1.0), "momentum": (0.0, 1.0), "ema": (0.0, 1.0)}
MAY_BE_ZERO = ("alpha", "warmup", "weight_decay", "momentum", "weight")


class RecipeOptions(TypedDict, total=False):
    """Keyword arguments of ``train_teacher`` and ``train_student``: the fields of Recipe, each optional."""

    steps: int | None
    epochs: float | None
    max_seconds: float | None
    batch_size: int
    accumulation: int
    optimizer: Optimizer
    lr: float
    weight_decay: float
    momentum: float
    schedule: Schedule
    warmup: float
    clip: float
    precision: Precision
    ema: float | None
    eval_every: int | None
    patience: int | None
    compile: bool
    gradient_checkpointing: bool
    seed: int
    hard_labels: int | None
    loss: Text | None
    weight: Number
    temperature: Number | None
    alpha: Number
    log_every: int
    views: Views


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of a training run; together with data, labels and network they decide its result.

    Attributes:
        steps: Number of optimiser steps; None: from ``epochs``.
        epochs: Passes over the rows; None, with ``steps`` None too: 20.
        max_seconds: Seconds of training, over all sessions, after which the run ends as if the step at hand were its
            last; the schedule stays that of ``steps`` or ``epochs``. None: no limit. Not part of the run's identity.
        batch_size: Rows per optimiser step, over all processes and accumulated batches together.
        accumulation: Number of equal shares of a process's rows of a step that are computed one after the other.
        optimizer: ``adamw``, or ``sgd`` with ``momentum``.
        lr: Peak learning rate.
        weight_decay: Weight decay.
        momentum: Momentum of ``sgd``, 0 to 1.
        schedule: Learning rate after the warm-up: along a ``cosine`` to 0, ``linear`` to 0, or ``constant``.
        warmup: Share of the steps in which the rate rises linearly, 0 to 1.
        clip: Greatest norm of the gradient.
        precision: Dtype of matrix products: ``float32``, ``bf16``, or ``fp16`` with scaled losses on a GPU.
        ema: Decay of an exponential moving average of the weights, which becomes the result, 0 to 1; None: none.
        eval_every: Steps between evaluations on the held-out rows; None: one epoch with ``patience``, else never.
        patience: Evaluations without a lower held-out loss after which the run ends, with the weights of the best one.
            None: it does not end early.
        compile: Compile the network with ``torch.compile``.
        gradient_checkpointing: Compute activations of the layers of ``gpt`` and ``hf`` again in the backward pass.
        seed: Seed of the initial weights, dropout, the order of rows, and the choice of hard labels.
        hard_labels: Number of training rows whose hard labels are used; None: all.
        loss: Losses of a head by name, such as ``kl`` or ``kl+0.1*logit_mse``; None: ``kl`` for distributions, ``mse``
            for regression, ``cosine`` for embeddings.
        weight: Weight of a head in the sum over heads.
        temperature: Temperature of the losses; None: the highest the labels were captured at.
        alpha: Weight of the soft labels against the hard ones, 0 to 1. Without hard labels it is 1.
        log_every: Steps between lines of metrics.
        views: Rows of an epoch if labels are of several views of an example: ``one`` view of each,
            ``all``, or the images themselves with the ``mean`` of the labels of their views.

    Raises:
        InvalidArgument: A value is out of range.

    Example:
        >>> Recipe(epochs=2).total_steps(steps_per_epoch=10)
        20
        >>> Recipe(loss={"road": "kl", "*": "huber"}).loss_of("steering")
        'huber'
    """

    steps: int | None = None
    epochs: float | None = None
    max_seconds: float | None = None
    batch_size: int = 64
    accumulation: int = 1
    optimizer: Optimizer = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    clip: float = 1.0
    precision: Precision = "float32"
    ema: float | None = None
    eval_every: int | None = None
    patience: int | None = None
    compile: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    hard_labels: int | None = None
    loss: Text | None = None
    weight: Number = 1.0
    temperature: Number | None = None
    alpha: Number = 0.9
    log_every: int = 50
    views: Views = "one"

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise InvalidArgument(f"steps and epochs: got {self.steps} and {self.epochs}; expected one of them")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                object.__setattr__(self, field.name, _checked(field.name, value))
        if self.accumulation > self.batch_size:
            raise InvalidArgument(
                f"accumulation: larger than batch_size, got {self.accumulation}; expected at most {self.batch_size}"
            )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimiser steps.

        Args:
            steps_per_epoch: Steps of one pass over the rows.
        """
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or DEFAULT_EPOCHS) * steps_per_epoch))

    def learning_rate(self, step: int, total: int) -> float:
        """Return the learning rate of a step: a linear rise over the first ``warmup``, then the schedule.

        Args:
            step: Number of the step, 0 to total - 1.
            total: Number of steps.
        """
        rise = max(1, round(self.warmup * total))
        if step < rise:
            return self.lr * (step + 1) / rise
        progress = (step - rise) / max(1, total - rise)
        if self.schedule == "constant":
            return self.lr
        return self.lr * (1 - progress if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress)))

    def loss_of(self, head: str) -> str | None:
        """Return the losses of a head; None for the default ones.

        Args:
            head: Name of the head.
        """
        return _of_head(self.loss, head)

    def weight_of(self, head: str) -> float:
        """Return the weight of a head; 1 if it is not named.

        Args:
            head: Name of the head.
        """
        weight = _of_head(self.weight, head)
        return 1.0 if weight is None else weight

    def temperature_of(self, head: str) -> float | None:
        """Return the temperature of a head; None for the highest of the labels.

        Args:
            head: Name of the head.
        """
        return _of_head(self.temperature, head)

    def alpha_of(self, head: str) -> float:
        """Return the weight of the soft labels of a head; 0.9 if it is not named.

        Args:
            head: Name of the head.
        """
        alpha = _of_head(self.alpha, head)
        return 0.9 if alpha is None else alpha

    def check_heads(self, heads: Mapping[str, object]) -> None:
        """Raise InvalidArgument if an option names a head that is not learned.

        Args:
            heads: The heads that are learned, by name.

        Raises:
            InvalidArgument: An option names another head; lists those that are learned.
        """
        for name in BY_HEAD:
            value = getattr(self, name)
            for head in value if isinstance(value, Mapping) else ():
                if head not in heads and head != OTHER_HEADS:
                    raise InvalidArgument(
                        f"{name}: no head {head!r} is learned, got {head}={value[head]}; expected "
                        f"{', '.join(heads)} or {OTHER_HEADS}"
                    )

    def to_json(self) -> dict[str, RecipeValue]:
        """Return the fields as ``run.json`` holds them."""
        return asdict(self)


def _of_head(value: Value | Mapping[str, Value] | None, head: str) -> Value | None:
    if not isinstance(value, Mapping):
        return value
    return value.get(head, value.get(OTHER_HEADS))


def _checked(name: str, value: object) -> Any:
    """Return a value of an option as its type."""
    if name in BY_HEAD and isinstance(value, Mapping):
        return {str(head): _checked(name, entry) for head, entry in sorted(value.items())}
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise InvalidArgument(f"{name}: not a truth value, got {value!r}; expected True or False")
        return value
    if name == "loss":
        if not isinstance(value, str):
            raise InvalidArgument(f"{name}: not a text, got {value!r}; expected the name of a loss, such as 'kl'")
        return value
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise InvalidArgument(f"{name}: unknown, got {value!r}; expected one of {', '.join(CHOICES[name])}")
        return value
    return _whole_number(name, value) if name in WHOLE_NUMBERS else _number(name, value)


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
