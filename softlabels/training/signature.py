"""Signatures of functions that take the fields of Recipe as keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from softlabels.training.recipe import Recipe

Function = TypeVar("Function", bound=Callable[..., Any])


def with_recipe_options(function: Function) -> Function:
    """Give a function that ends in ``**options`` a signature that lists the fields of Recipe with their defaults.

    Args:
        function: The function, which is returned.

    Example:
        >>> @with_recipe_options
        ... def train(out, **options): ...
        >>> inspect.signature(train).parameters["batch_size"].default
        64
    """
    signature = inspect.signature(function)
    parameters = [entry for entry in signature.parameters.values() if entry.kind is not entry.VAR_KEYWORD]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(Recipe)
    ]
    function.__signature__ = signature.replace(parameters=[*parameters, *options])  # type: ignore[attr-defined]  # read by inspect and help
    return function
