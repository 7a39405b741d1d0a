"""A store on a web server, read only.

Web servers serve files and list nothing. A sealed store can be read all the same: the names of its files follow from
the snapshot, and the newest snapshot is found by asking for numbers. Bytes are verified as from any storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from softlabels.errors import StorageUnsupported
from softlabels.store.storage.object_storage import ObjectStorage
from softlabels.store.storage.remote_storage import ReadOnly

NUMBERED = ("snapshots", "description")
"""Directories whose files are numbered from 1 without gaps."""
DESCRIPTOR = "softlabels.json"


class HttpStorage(ReadOnly, ObjectStorage):
    """Files of a sealed store below a URL; see `Storage`. Verbs that change something are errors.

    Args:
        url: URL of the store, such as ``https://example.org/labels``.
        deadline: Seconds after which a verb gives up.
    """

    lists: ClassVar[bool] = False
    read_only_reason = "a store on a web server is read only. Name a directory or a bucket to write to"

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
