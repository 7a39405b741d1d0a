"""The losses by name, for options such as ``--loss NAME``.

A module of this package declares its losses with the ``loss`` decorator. The package imports every module below it, so
a new loss is one new file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, HeadKind
from softlabels.suggestions import suggest

Function = TypeVar("Function", bound=Callable[..., Any])

NUMBERS: tuple[HeadKind, ...] = ("regression", "embedding")
"""Kinds of head whose values are numbers to regress on."""

_LOSSES: dict[str, Loss] = {}


@dataclass(frozen=True)
class Loss:
    """One loss and the inputs it takes.

    Attributes:
        name: Name of the function in ``softlabels.losses``.
        function: The loss. It takes the student's output, labels, and keyword options, and returns a scalar tensor.
        kinds: Kinds of head that it is defined for.
        samples: True if it accepts labels that are a sample of the distribution (``sampled`` and ``threshold``).
        hard: True if it also accepts hard labels, (N,) class ids, as its third argument.
        temperature: True if it has a ``temperature`` option.
        labels_of: Name of the head whose labels it takes; None: those of the head that it trains.
    """

    name: str
    function: Callable[..., Any]
    kinds: tuple[HeadKind, ...]
    samples: bool
    hard: bool
    temperature: bool
    labels_of: str | None = None


def loss(
    *,
    kinds: tuple[HeadKind, ...] = DISTRIBUTIONS,
    samples: bool = False,
    hard: bool = False,
    temperature: bool = True,
    labels_of: str | None = None,
) -> Callable[[Function], Function]:
    """Return a decorator that registers a function as a loss; the arguments are attributes of Loss.

    Example:
        >>> from softlabels.losses import registry
        >>> @registry.loss(temperature=False)
        ... def brier(student_logits, labels): ...
        >>> registry.get("brier").temperature
        False
        >>> registry.remove("brier")
    """

    def register(function: Function) -> Function:
        _LOSSES[function.__name__] = Loss(function.__name__, function, kinds, samples, hard, temperature, labels_of)
        return function

    return register


def names() -> list[str]:
    """Return the names of all losses, sorted.

    Example:
        >>> from softlabels import losses
        >>> "kl" in losses.names()
        True
    """
    return sorted(_LOSSES)


def remove(name: str) -> None:
    """Remove a loss from the registry.

    Raises:
        InvalidArgument: No loss has this name.
    """
    del _LOSSES[get(name).name]


def get(name: str) -> Loss:
    """Return the loss of that name.

    Example:
        >>> from softlabels import losses
        >>> losses.get("mse").kinds
        ('regression', 'embedding')

    Raises:
        InvalidArgument: No loss has this name. The message lists the names.
    """
    if name not in _LOSSES:
        raise InvalidArgument(
            f"loss: unknown name, got {name!r}; expected one of {', '.join(names())}{suggest(name, names())}"
        )
    return _LOSSES[name]
