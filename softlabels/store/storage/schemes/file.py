"""The scheme ``file``: directories as URLs."""

from __future__ import annotations

import re
from urllib.parse import unquote

from softlabels.errors import InvalidArgument
from softlabels.store.storage.posix import PosixStorage
from softlabels.store.storage.storage import Storage

URL = re.compile(r"file:/(?://)?", re.IGNORECASE)


def open_location(location: str) -> Storage:
    """Return the storage of a directory.

    Args:
        location: URL such as ``file:///data/labels``.

    Raises:
        InvalidArgument: The URL names a host.
    """
    rest = URL.sub("", location, count=1)
    if rest.startswith("/"):
        raise InvalidArgument(f"{location}: a file URL with a host, expected file:///PATH. Name the directory")
    return PosixStorage(unquote(f"/{rest}"))
