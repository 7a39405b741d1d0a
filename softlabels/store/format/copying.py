"""The mark of a copy under way, for stores whose rows are appended.

Such a store has no number of rows to miss. A copy of which some units have arrived would pass for a smaller store, and
could be sealed as one. The mark names the snapshot that is being copied, and goes when that is there.
"""

from __future__ import annotations

import json
from contextlib import suppress

from softlabels.errors import StoreError
from softlabels.store.format import canonical_json, paths
from softlabels.store.format.snapshot import read_snapshot
from softlabels.store.storage.storage import Storage

MARK = "copying.json"
MAX_MARK_BYTES = 4096


def begin_copy(storage: Storage, digest: str) -> None:
    """Mark a store as a copy under way.

    Args:
        storage: Storage of the copy.
        digest: Digest of the snapshot that is copied.
    """
    storage.put_if_absent(MARK, canonical_json.to_bytes({"format": "softlabels-copying", "snapshot": digest}))


def end_copy(storage: Storage) -> None:
    """Remove the mark, if there is one.

    Args:
        storage: Storage of the copy, with the snapshot.
    """
    with suppress(FileNotFoundError):
        storage.delete(MARK)


def is_unfinished_copy(storage: Storage) -> bool:
    """Return True if a store is a copy that has begun and lacks the snapshot that is copied.

    Args:
        storage: Storage of the store.
    """
    if not storage.lists:
        return False
    try:
        mark = json.loads(storage.read(MARK, MAX_MARK_BYTES))
        digest = mark["snapshot"]
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, KeyError, RecursionError):
        return True  # damaged, but there
    for number in reversed(paths.snapshot_numbers(storage)):
        with suppress(StoreError):
            if read_snapshot(storage, number).digest == digest:
                return False
    return True
