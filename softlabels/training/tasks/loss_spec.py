"""Losses as text: a sum of losses by name, such as ``kl``, ``kl+0.1*logit_mse`` or ``huber:delta=2``."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import Self

from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.losses import Loss

SHARED_OPTIONS = {"temperature", "mask", "scale_by_temperature"}
"""Keyword arguments of losses that the recipe, the data or the definition of the loss decide."""

EXPECTED = "expected a loss by name or a sum of them, such as kl, kl+0.1*logit_mse or huber:delta=2"

INSTEAD = {"distillation": "kl, which alpha mixes with the hard labels"}
"""Losses that a recipe expresses otherwise."""


@dataclass(frozen=True, kw_only=True)
class WeightedLoss:
    """One loss of a sum.

    Attributes:
        loss: The loss.
        weight: Factor of the loss.
        options: Keyword arguments of the loss.
    """

    loss: Loss
    weight: float = 1.0
    options: dict[str, float] = field(default_factory=dict)

    def arguments(self, temperature: float) -> dict[str, float]:
        """Return the keyword arguments of the loss, with the temperature if it has one.

        Args:
            temperature: Temperature of the head.
        """
        return self.options | ({"temperature": temperature} if self.loss.temperature else {})

    def __str__(self) -> str:
        options = ",".join(f"{name}={value:g}" for name, value in self.options.items())
        text = f"{self.loss.name}:{options}" if options else self.loss.name
        return text if self.weight == 1 else f"{self.weight:g}*{text}"


@dataclass(frozen=True)
class LossSpec:
    """A sum of losses.

    Attributes:
        losses: The losses, at least one.

    Example:
        >>> str(LossSpec.parse("kl + 0.10*logit_mse"))
        'kl+0.1*logit_mse'
    """

    losses: tuple[WeightedLoss, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.losses))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the losses that a text names.

        Args:
            text: Losses joined by ``+``, each ``[WEIGHT*]NAME[:OPTION=NUMBER,...]``.

        Raises:
            InvalidArgument: A name, weight or option is unknown or out of range.
        """
        return cls(tuple(_parse_one(entry.strip(), text) for entry in text.split("+")))


def _parse_one(entry: str, text: str) -> WeightedLoss:
    factor, star, rest = entry.rpartition("*")
    name, _, options = rest.strip().partition(":")
    if not name:
        raise InvalidArgument(f"loss: a name is missing, got {text!r}; {EXPECTED}")
    if name in INSTEAD:
        raise InvalidArgument(f"loss: cannot be a term, got {name!r}; expected {INSTEAD[name]}")
    loss = losses.get(name)
    weight = _number(factor.strip(), text) if star else 1.0
    return WeightedLoss(loss=loss, weight=weight, options=_options(loss, options, text))


def _options(loss: Loss, text: str, full_text: str) -> dict[str, float]:
    known = [
        name
        for name, parameter in inspect.signature(loss.function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in SHARED_OPTIONS
    ]
    options = {}
    for entry in text.split(",") if text else ():
        name, _, value = entry.partition("=")
        if name.strip() not in known:
            raise InvalidArgument(
                f"loss {loss.name}: unknown option, got {name.strip()!r}; expected {', '.join(known) or 'none'}"
            )
        options[name.strip()] = _number(value, full_text)
    return options


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InvalidArgument(f"loss: not a number above 0, got {value.strip()!r} in {text!r}; {EXPECTED}")
    return number
