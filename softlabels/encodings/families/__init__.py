"""The encodings, one module each.

A module in this folder defines ``ENCODING``, a class that derives from ``Encoding``. It is found by its place; nothing
else lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from softlabels.encodings.encoding import Encoding


@cache
def families() -> Mapping[str, type[Encoding]]:
    """Return the encodings by the first word of their specifications, sorted.

    Example:
        >>> "topk" in families()
        True
    """
    names = sorted(entry.name for entry in pkgutil.iter_modules(__path__))
    classes = [importlib.import_module(f"{__name__}.{name}").ENCODING for name in names]
    return {family.name: family for family in classes}
