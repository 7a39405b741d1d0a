"""What was verified on this machine, so that verifying again reads only what has been touched since.

Kept in the user's cache, never in the store: a store may be read-only, and what its sender says of it proves nothing.
A unit counts as untouched while its record's digest and its shard's size, inode and both times are the same.
"""

from __future__ import annotations

import contextlib
import os

from blake3 import blake3

from softlabels.store.format import canonical_json
from softlabels.store.format.record import Record
from softlabels.store.storage.storage import Storage
from softlabels.store.storage.user_cache import cache_directory

LIMIT = 2**28


class VerificationCache:
    """Marks of units that were found good.

    Args:
        storage: Storage of the store.
    """

    def __init__(self, storage: Storage) -> None:
        name = blake3(os.fsencode(storage.identity)).hexdigest()[:32]
        self._storage = storage
        self._path = cache_directory() / "verified" / f"{name}.json"
        self._marks: dict[str, str] = {}
        # A damaged or foreign ledger only means that everything is read again.
        with contextlib.suppress(OSError, ValueError):
            found = canonical_json.parse(self._path.read_bytes(), LIMIT)
            self._marks = {str(unit): str(mark) for unit, mark in found.items()}

    def knows(self, record: Record, shard: str, *, deep: bool) -> bool:
        """Whether the unit was verified (as deeply, or deeper) and has not been touched since."""
        mark = self._marks.get(str(record.unit))
        accepted = {self._mark(record, shard, deep=True), None if deep else self._mark(record, shard, deep=False)}
        return mark is not None and mark in accepted

    def add(self, record: Record, shard: str, *, deep: bool) -> None:
        """Remember that a unit is good."""
        mark = self._mark(record, shard, deep=deep)
        if mark is not None:
            self._marks[str(record.unit)] = mark

    def save(self) -> None:
        """Keep the marks; a cache that cannot be written is no error."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(canonical_json.to_bytes(self._marks))
            temporary.replace(self._path)

    def _mark(self, record: Record, shard: str, *, deep: bool) -> str | None:
        info = self._storage.info(shard)
        return None if info is None else f"{record.digest} {info.version} {'deep' if deep else 'bytes'}"
