"""Digests of snapshots that were sealed on this machine: their records were parsed and checked in full here.

The cache is in the user's cache directory and never in the store, whose sender's word for it proves nothing. Without
it, or if it is lost, sealing parses every record again.
"""

from __future__ import annotations

import contextlib

from softlabels.store.storage.storage import Storage
from softlabels.store.storage.user_cache import cached_path, write_cached

LIMIT = 2**20
"""Bytes that are read of the cache of one store; a snapshot has 65."""


class SealingCache:
    """Snapshots of a store that were sealed on this machine.

    Args:
        storage: Storage of the store.
    """

    def __init__(self, storage: Storage) -> None:
        self._path = cached_path("sealed", storage.identity, ".txt")

    def has(self, digest: str) -> bool:
        """Return True if the snapshot with this digest was sealed here.

        Args:
            digest: Digest of the snapshot.
        """
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            return digest.encode() in file.read(LIMIT).split()
        return False

    def add(self, digest: str) -> None:
        """Remember the last snapshot that was sealed, if the cache can be written.

        Args:
            digest: Digest of the snapshot.
        """
        write_cached(self._path, f"{digest}\n".encode())
