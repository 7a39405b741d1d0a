"""MODEL specifications: ``name`` or ``name:option=value,option=value``, ``run:DIR``, ``python:MODULE:NAME``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from softlabels.errors import InvalidArgument


@dataclass(frozen=True)
class ModelSpec:
    """A parsed MODEL.

    Attributes:
        kind: a built-in architecture, ``run`` or ``python``.
        options: options of an architecture, all of them, defaults filled in.
        rest: what follows ``run:`` or ``python:``.
    """

    kind: str
    options: Mapping[str, int | float]
    rest: str = ""

    def __str__(self) -> str:
        if self.rest:
            return f"{self.kind}:{self.rest}"
        return f"{self.kind}:" + ",".join(f"{name}={value:g}" for name, value in self.options.items())


def parse(text: str, architectures: Mapping[str, Mapping[str, int | float]]) -> ModelSpec:
    """Read a MODEL.

    Args:
        text: what the user typed.
        architectures: built-in names, each with its options and their defaults.

    Raises:
        InvalidArgument: an unknown name or option, or a value that is no positive number; lists those there are.
    """
    kind, _, rest = text.partition(":")
    if kind in {"run", "python"}:
        if not rest:
            example = "run:DIR" if kind == "run" else "python:MODULE:NAME"
            raise InvalidArgument(f"MODEL {text!r} names nothing after the colon; it is written {example}")
        return ModelSpec(kind, {}, rest)
    if kind not in architectures:
        names = [*architectures, "run", "python"]
        near = difflib.get_close_matches(kind, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidArgument(
            f"unknown MODEL {text!r}: it starts with {', '.join(architectures)}, run:DIR or python:MODULE:NAME.{hint}"
        )
    defaults = architectures[kind]
    options = dict(defaults)
    for item in filter(None, rest.split(",")):
        name, _, value = item.partition("=")
        if name not in defaults:
            raise InvalidArgument(f"MODEL {text!r}: {kind} has no option {name!r}; it has {', '.join(defaults)}")
        options[name] = _number(text, name, value, defaults[name])
    return ModelSpec(kind, options)


def _number(text: str, name: str, value: str, default: float) -> int | float:
    """The value of an option, of the type of its default."""
    try:
        number = type(default)(value)
    except ValueError:
        number = -1
    if not (0 < number < 1_000_000 or (number == 0 and isinstance(default, float))):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise InvalidArgument(f"MODEL {text!r}: {name}={value!r} is not {kind} above 0, as {name}={default:g} is")
    return number
