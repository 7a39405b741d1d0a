"""Storages behind a network: verified ranges from a shared cache, and verbs that read-only storages refuse."""

from __future__ import annotations

from typing import NoReturn

from blake3 import blake3

from softlabels.errors import StorageUnsupported
from softlabels.store.storage.range_cache import RangeCache
from softlabels.store.storage.retries import DEADLINE
from softlabels.store.storage.storage import Storage

FETCHES = 3
"""Times that a chunk is fetched before its bytes are taken to be damaged."""


class RemoteStorage(Storage):
    """Base of storages behind a network; see `Storage`.

    Args:
        url: URL of the store.
        deadline: Seconds after which a verb gives up.
    """

    def __init__(self, url: str, *, deadline: float = DEADLINE) -> None:
        self.location = url.rstrip("/")
        self._deadline = deadline
        self._cache = RangeCache.of_user()

    @property
    def identity(self) -> str:
        """URL of the store."""
        return self.location

    def read_verified(self, name: str, offset: int, into: memoryview, *, of: int, digest: str) -> None:
        """See `Storage.read_verified`: from the cache, or fetched up to three times."""
        if self._cache.read(digest, into):
            return
        with self._cache.turn(digest, len(into)):
            if self._cache.read(digest, into):  # another process has fetched it meanwhile
                return
            for _ in range(FETCHES):
                self.read_range(name, offset, into, of=of)
                if blake3(into).hexdigest() == digest:
                    self._cache.write(digest, into)
                    return
        raise ValueError(f"bytes {offset:,} to {offset + len(into):,} are not what was committed, {FETCHES} times")

    def settle(self, directory: str) -> None:
        """See `Storage.settle`; files are durable when they are visible."""


class ReadOnly(Storage):
    """Mixin of storages that cannot be written to: every verb that changes something is an error.

    Attributes:
        read_only_reason: Clause that says why, and sentence that says what to do instead.
    """

    read_only_reason: str

    def check_writable(self) -> NoReturn:
        """See `Storage.check_writable`."""
        self._refuse()

    def prepare(self) -> NoReturn:
        """See `Storage.prepare`."""
        self._refuse()

    def create(self) -> NoReturn:
        """See `Storage.create`."""
        self._refuse()

    def put_if_absent(self, name: str, data: bytes) -> NoReturn:
        """See `Storage.put_if_absent`."""
        self._refuse()

    def move(self, source: str, target: str) -> NoReturn:
        """See `Storage.move`."""
        self._refuse()

    def delete(self, name: str) -> NoReturn:
        """See `Storage.delete`."""
        self._refuse()

    def lock(self, name: str) -> NoReturn:
        """See `Storage.lock`."""
        self._refuse()

    def claim(self) -> NoReturn:
        """See `Storage.claim`."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StorageUnsupported(f"{self}: {self.read_only_reason}")
