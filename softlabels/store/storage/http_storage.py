"""A store on a web server, read only.

Web servers serve files and list nothing. A sealed store can be read all the same: the names of its files follow from
the snapshot, and the newest snapshot is found by asking for numbers. Bytes are verified as from any storage.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import urlsplit

from softlabels.errors import StorageFailed, StorageUnsupported
from softlabels.store.storage.object_storage import ObjectStorage
from softlabels.store.storage.remote_storage import ReadOnly

NUMBERED = ("snapshots", "description")
"""Directories whose files are numbered from 1 without gaps."""
DESCRIPTOR = "softlabels.json"
TIMEOUT = 20.0
"""Seconds to wait for the answer that shows a redirect."""


class HttpStorage(ReadOnly, ObjectStorage):
    """Files of a sealed store below a URL; see `Storage`. Verbs that change something are errors.

    Args:
        url: URL of the store, such as ``https://example.org/labels``.
        deadline: Seconds after which a verb gives up.
    """

    lists: ClassVar[bool] = False
    has_versions: ClassVar[bool] = False
    _is_checked = False
    read_only_reason = "a store on a web server is read only. Name a directory or a bucket to write to"

    def read(self, name: str, limit: int) -> bytes:
        """See `Storage.read`; before the first file, looks for a redirect to another host.

        Raises:
            StorageFailed: The server redirects to another host, which nobody has chosen.
        """
        if not self._is_checked:
            self._check_host(name)
            self._is_checked = True
        return super().read(name, limit)

    def _check_host(self, name: str) -> None:
        """Raise StorageFailed if a file is redirected to another host; redirects on one host are followed."""
        request = urllib.request.Request(self.locate(name), method="HEAD")  # noqa: S310  the schemes are http and https
        redirects = _SameHost(self.location)
        # Other failures show in the request proper, with its retries.
        with suppress(OSError, ValueError, http.client.HTTPException):
            urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT).close()
        if redirects.other is not None:
            raise StorageFailed(
                f"{self}: the server redirects to another host, got {redirects.other}; expected {redirects.host}. Name "
                "that URL if you trust it"
            )

    def list_names(self, directory: str) -> list[str]:
        """See `Storage.list_names`; knows the descriptor, snapshots and descriptions, and can list nothing else."""
        if directory == "":
            return [DESCRIPTOR] if self.info(DESCRIPTOR) is not None else []
        if directory not in NUMBERED:
            raise StorageUnsupported(
                f"{self.locate(directory)}: a web server lists no files, so this needs a copy of the store; copy it to "
                "a directory first"
            )
        return [f"{number:08d}.json" for number in range(1, self._last(directory) + 1)]

    def walk(self, directory: str) -> Iterator[str]:
        """See `Storage.walk`."""
        yield from (f"{directory}/{name}" if directory else name for name in self.list_names(directory))

    def _last(self, directory: str) -> int:
        """Return the last number in a directory, 0 if there is none: numbers are doubled, then halved."""
        low, high = 0, 1
        while self.info(f"{directory}/{high:08d}.json") is not None:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            if self.info(f"{directory}/{middle:08d}.json") is None:
                high = middle
            else:
                low = middle
        return low


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the host of a store alone."""

    def __init__(self, location: str) -> None:
        self.host = urlsplit(location).hostname
        self.other: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to follow a redirect with; None, an error, for another host."""
        host = urlsplit(newurl).hostname
        if host != self.host:
            self.other = host
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
