"""What was verified on this machine, so that verifying again reads only what has been touched since.

Kept in the user's cache, never in the store: a store may be read-only, and what its sender says of it proves nothing.
A unit counts as untouched while its record's digest and its shard's size, inode and both times are the same.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from blake3 import blake3

from softlabels.store.format import canonical_json
from softlabels.store.format.record import Record
from softlabels.store.storage.user_cache import cache_directory

LIMIT = 2**28


class VerificationCache:
    """Marks of units that were found good.

    Args:
        root: of the store.
    """

    def __init__(self, root: Path) -> None:
        name = blake3(os.fsencode(root.resolve())).hexdigest()[:32]
        self._path = cache_directory() / "verified" / f"{name}.json"
        self._marks: dict[str, str] = {}
        # A damaged or foreign ledger only means that everything is read again.
        with contextlib.suppress(OSError, ValueError):
            found = canonical_json.parse(self._path.read_bytes(), LIMIT)
            self._marks = {str(unit): str(mark) for unit, mark in found.items()}

    def knows(self, record: Record, shard: Path, *, deep: bool) -> bool:
        """Whether the unit was verified (as deeply, or deeper) and has not been touched since."""
        with contextlib.suppress(OSError):
            mark = self._marks.get(str(record.unit))
            return mark in {_mark(record, shard, deep=True), None if deep else _mark(record, shard, deep=False)} - {
                None
            }
        return False

    def add(self, record: Record, shard: Path, *, deep: bool) -> None:
        """Remember that a unit is good."""
        self._marks[str(record.unit)] = _mark(record, shard, deep=deep)

    def save(self) -> None:
        """Keep the marks; a cache that cannot be written is no error."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(canonical_json.to_bytes(self._marks))
            temporary.replace(self._path)


def _mark(record: Record, shard: Path, *, deep: bool) -> str:
    status = shard.lstat()
    touched = f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{record.digest} {touched} {'deep' if deep else 'bytes'}"
