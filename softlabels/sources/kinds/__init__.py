"""The kinds of DATA: every module here that defines ``KIND`` is one. To add a kind, add a file.

A kind names its suffixes or words and opens a request. Kinds of rows and columns build a Table and return
``request.source(table)``; a kind of another nature (text, folders of images, tar files) returns a Source of its own.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path

from softlabels.errors import InvalidArgument
from softlabels.sources.image_files import SUFFIXES
from softlabels.sources.request import DataKind
from softlabels.suggestions import suggest


@functools.cache
def data_kinds() -> tuple[DataKind, ...]:
    """Return all kinds of data, in the order of their module names.

    Example:
        >>> [kind.name for kind in data_kinds() if ".csv" in kind.suffixes]
        ['CSV']
    """
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    loaded = [importlib.import_module(f"{__name__}.{module}") for module in modules]
    return tuple(module.KIND for module in loaded if isinstance(getattr(module, "KIND", None), DataKind))


def kind_of_name(name: str) -> DataKind | None:
    """Return the kind that a word such as ``digits`` or ``roads:1000`` stands for; None if it stands for none."""
    word, colon, _ = name.partition(":")
    prefix = word if colon else None
    return next((kind for kind in data_kinds() if name in kind.names or prefix == (kind.prefix or "")), None)


def kind_of_directory(path: Path) -> DataKind | None:
    """Return the kind of data that a directory holds; None if it holds none that is known."""
    return next((kind for kind in data_kinds() if kind.holds is not None and kind.holds(path)), None)


def kind_of_file(path: Path, spec: str) -> DataKind:
    """Return the kind of a file by the end of its name.

    Raises:
        InvalidArgument: The kind is unknown; lists those that are supported, and the most similar one.
    """
    suffix = path.suffix.lower()
    known = {suffix: kind for kind in data_kinds() for suffix in kind.suffixes}
    if suffix in known:
        return known[suffix]
    words = (word for kind in data_kinds() for word in (*kind.names, *([f"{kind.prefix}:N"] if kind.prefix else [])))
    supported = ", ".join([*known, *words])
    advice = ". Name the folder of the images" if suffix in SUFFIXES else ". Convert the data to one of these"
    hint = suggest(suffix, known) or advice
    raise InvalidArgument(f"{spec}: unsupported file type {suffix!r}; supported: a folder of images, {supported}{hint}")
