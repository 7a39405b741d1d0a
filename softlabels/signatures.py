"""Signatures of functions that pass ``**options`` on, for ``help`` and editors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from softlabels.suggestions import suggest

Function = TypeVar("Function", bound=Callable[..., Any])


def with_options(defaults: Mapping[str, object], types: Mapping[str, object]) -> Callable[[Function], Function]:
    """Return a decorator that lists options in the signature of a function, in place of ``**options``.

    The function raises TypeError for any other name, with the nearest one, as if the options were its parameters.

    Args:
        defaults: Default of each option by name, in order.
        types: Type of each option.

    Example:
        >>> @with_options({"steps": 9}, {"steps": int})
        ... def train(out, **options): ...
        >>> str(inspect.signature(train))
        '(out, *, steps: int = 9)'
    """
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
        for name, default in defaults.items()
    ]

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        named = [entry for entry in signature.parameters.values() if entry.kind is not entry.VAR_KEYWORD]
        known = {entry.name for entry in (*named, *options)}

        @functools.wraps(function)
        def checked(*arguments: Any, **keywords: Any) -> Any:
            if unknown := sorted(keywords.keys() - known):
                hint = suggest(unknown[0], known)
                raise TypeError(f"{function.__name__}() got an unexpected keyword argument {unknown[0]!r}{hint}")
            return function(*arguments, **keywords)

        checked.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]  # read by inspect and help
        return cast("Function", checked)

    return decorate
