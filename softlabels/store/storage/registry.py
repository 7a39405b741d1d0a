"""Choice of a storage by the scheme of a location.

A location without a scheme is a directory. A scheme is a module of `softlabels.store.storage.schemes` that is named for
it and has one function, ``open_location(location: str) -> Storage``. To add a scheme, add its module.
"""

from __future__ import annotations

import os
import pkgutil
import re
from importlib import import_module

from softlabels.errors import InvalidArgument, StorageUnsupported
from softlabels.store.storage import schemes
from softlabels.store.storage.posix import PosixStorage
from softlabels.store.storage.storage import Location, Storage

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""One slash is enough: a Path joins the two of a URL."""


def open_storage(location: Location) -> Storage:
    """Return the storage at a location; does not access it.

    Args:
        location: Directory, URL such as ``file:///data/labels``, or an open storage, which is returned.

    Raises:
        InvalidArgument: The URL lacks its slashes.
        StorageUnsupported: The scheme of the URL is not supported.

    Example:
        >>> str(open_storage("labels"))
        'labels'
    """
    if isinstance(location, Storage):
        return location
    text = os.fspath(location)
    match = SCHEME.match(text)
    if match is None:
        _check_slashes(text)
        return PosixStorage(text)
    scheme = match[1].lower()
    module = f"{schemes.__name__}.{scheme}"
    try:
        opener = import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        available = ", ".join(f"{name}://" for name in _names())
        raise StorageUnsupported(
            f"{text}: unsupported storage, got scheme {scheme!r}; expected a directory or {available}. Copy the store "
            "to a directory and name that"
        ) from None
    storage: Storage = opener.open_location(text)
    return storage


def _names() -> list[str]:
    """Return the schemes that are supported."""
    return [info.name for info in pkgutil.iter_modules(schemes.__path__)]


def _check_slashes(text: str) -> None:
    """Raise InvalidArgument for a URL without slashes, which would make a directory of that name."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in _names():
        raise InvalidArgument(
            f"{text}: a URL without slashes, got {scheme}:; expected {scheme.lower()}://{rest}. Name a directory as "
            f"./{text}"
        )
