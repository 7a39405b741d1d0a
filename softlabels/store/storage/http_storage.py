"""A store on a web server, read only.

Web servers serve files and list nothing. A sealed store can be read all the same: the names of its files follow from
the snapshot, and the newest snapshot is found by asking for numbers. Bytes are verified as from any storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from softlabels.errors import StorageUnsupported
from softlabels.store.storage.object_file import ObjectFile
from softlabels.store.storage.object_locks import Lease, ObjectUnitLocks
from softlabels.store.storage.object_storage import ObjectStorage

SNAPSHOTS = "snapshots"
DESCRIPTOR = "softlabels.json"


class HttpStorage(ObjectStorage):
    """Files of a sealed store below a URL; see `Storage`. Verbs that change something are errors.

    Args:
        url: URL of the store, such as ``https://example.org/labels``.
        deadline: Seconds after which a verb gives up.
    """

    def list_names(self, directory: str) -> list[str]:
        """See `Storage.list_names`; knows the descriptor and the snapshots, and can list nothing else."""
        if directory == "":
            return [DESCRIPTOR] if self.info(DESCRIPTOR) is not None else []
        if directory != SNAPSHOTS:
            raise StorageUnsupported(
                f"{self.locate(directory)}: a web server lists no files, so this needs a copy of the store; copy it to "
                "a directory first"
            )
        last = 0
        while self.info(f"{SNAPSHOTS}/{last + 1:08d}.json") is not None:
            last += 1
        return [f"{number:08d}.json" for number in range(1, last + 1)]

    def walk(self, directory: str) -> Iterator[str]:
        """See `Storage.walk`."""
        yield from (f"{directory}/{name}" if directory else name for name in self.list_names(directory))

    def prepare(self) -> NoReturn:
        """See `Storage.prepare`."""
        self._read_only()

    def create(self) -> ObjectFile:
        """See `Storage.create`."""
        self._read_only()

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage.put_if_absent`."""
        self._read_only()

    def move(self, source: str, target: str) -> None:
        """See `Storage.move`."""
        self._read_only()

    def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        self._read_only()

    def lock(self, name: str) -> Lease:
        """See `Storage.lock`."""
        self._read_only()

    def claim(self) -> ObjectUnitLocks:
        """See `Storage.claim`."""
        self._read_only()

    def _read_only(self) -> NoReturn:
        raise StorageUnsupported(
            f"{self}: a store on a web server is read only. Name a directory or a bucket to write to"
        )
