"""The kinds of MODEL, one module each.

A module in this folder defines ``KIND``, a :class:`softlabels.models.kind.Kind`. It is found by its place; nothing else
lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from softlabels.models.kind import Kind


@cache
def kinds() -> Mapping[str, Kind]:
    """Return the kinds of MODEL by name, sorted.

    Example:
        >>> "mlp" in kinds()
        True
    """
    modules = [importlib.import_module(f"{__name__}.{entry.name}") for entry in pkgutil.iter_modules(__path__)]
    return {kind.name: kind for kind in sorted((module.KIND for module in modules), key=lambda kind: str(kind.name))}
