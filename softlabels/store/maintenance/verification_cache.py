"""Results of earlier verification on this machine, so that verifying again reads only files that have changed.

The cache is in the user's cache directory and never in the store: a store may be read-only, and its sender's word for
it proves nothing. A unit counts as unchanged while the digest of its record and the versions (size, inode and times) of
its shard and its extras are the same.
"""

from __future__ import annotations

import contextlib

from blake3 import blake3

from softlabels.store.format import canonical_json, paths
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.record import Record
from softlabels.store.storage.storage import Storage
from softlabels.store.storage.user_cache import cached_path, write_cached

LIMIT = 2**27
"""Bytes of the cache of one store; a unit has about 50."""


class VerificationCache:
    """Marks of the units of a store that were verified.

    Args:
        storage: Storage of the store.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._path = cached_path("verified", storage.identity, ".json")
        self._marks: dict[str, str] = {}
        # With a damaged cache everything is read again.
        with contextlib.suppress(OSError, ValueError):
            marks = canonical_json.parse(self._path.read_bytes(), LIMIT)
            self._marks = {str(unit): str(mark) for unit, mark in marks.items()}

    def has(self, record: Record, descriptor: Descriptor, *, deep: bool) -> bool:
        """Return True if a unit was verified as deeply and its files have not changed since."""
        mark = self._marks.get(str(record.unit))
        depths = ("deep",) if deep else ("deep", "bytes")
        return mark is not None and mark in {self._mark(record, descriptor, depth) for depth in depths}

    def add(self, record: Record, descriptor: Descriptor, *, deep: bool) -> None:
        """Remember that the files of a unit are right."""
        mark = self._mark(record, descriptor, "deep" if deep else "bytes")
        if mark is not None:
            self._marks[str(record.unit)] = mark

    def save(self) -> None:
        """Write the marks, if the cache can be written."""
        write_cached(self._path, canonical_json.to_bytes(self._marks))

    def _mark(self, record: Record, descriptor: Descriptor, depth: str) -> str | None:
        """Return the mark of a unit; None if a file of it is missing."""
        names = [paths.shard_path(record.unit, record.attempt, descriptor.shard_format)]
        if record.extras is not None:
            names.append(paths.extras_path(record.unit, record.attempt))
        infos = [self._storage.info(name) for name in names]
        if None in infos:
            return None
        versions = " ".join(info.version for info in infos if info is not None)
        return str(blake3(f"{record.digest} {versions} {depth}".encode()).hexdigest())[:32]
