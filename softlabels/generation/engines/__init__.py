"""The engines that run a teacher over a store's units, one module each.

A module in this folder defines ``ENGINE``, a :class:`softlabels.generation.engine.Engine`. It is found by its place;
nothing else lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from softlabels.errors import InvalidArgument
from softlabels.generation.engine import Engine
from softlabels.suggestions import suggest


@cache
def engines() -> Mapping[str, Engine]:
    """Return the engines by name, sorted.

    Example:
        >>> list(engines())
        ['local', 'ray', 'torchrun']
    """
    names = sorted(entry.name for entry in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {module.ENGINE.name: module.ENGINE for module in modules}


def engine_of(name: str) -> Engine:
    """Return the engine of that name.

    Args:
        name: Name of the engine.

    Raises:
        InvalidArgument: There is no such engine.
    """
    if name not in engines():
        raise InvalidArgument(
            f"engine: unknown, got {name!r}; expected {', '.join(engines())}{suggest(name, engines())}"
        )
    return engines()[name]
