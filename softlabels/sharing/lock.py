"""Lock files: the snapshots that a project trains from, and where they came from.

``softlabels.lock`` lies beside a recipe and is committed with it. `pull` writes it, and `train-student` refuses a store
that is not the one it pins. It is JSON with one entry for each store, by its path relative to the file or by its URL.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from softlabels.errors import InvalidData, StoreConflict
from softlabels.store import Store
from softlabels.store.format import canonical_json
from softlabels.store.format.fields import Fields
from softlabels.store.format.limits import MAX_ROWS, MAX_UNITS
from softlabels.store.storage.posix import PosixStorage
from softlabels.store.storage.regular_file import read_regular
from softlabels.store.storage.storage import Storage
from softlabels.store.storage.system_errors import system_errors

LOCK_NAME = "softlabels.lock"
"""Default name of a lock file, in the directory of the recipe."""
FORMAT = "softlabels-lock"
VERSION = 1
MAX_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class LockEntry:
    """A store that a lock file pins.

    Attributes:
        digest: Digest of the snapshot.
        snapshot: Number of the snapshot, from 1.
        rows: Rows of the snapshot.
        source: Location that the store was pulled from.
    """

    digest: str
    snapshot: int
    rows: int
    source: str


def read_lock(path: Path) -> dict[str, LockEntry]:
    """Return the entries of a lock file by store; empty if there is no file.

    Args:
        path: Path of the lock file.

    Raises:
        InvalidData: The file is no lock file that this version reads.
    """
    try:
        return _parse(read_regular(path, MAX_BYTES))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidData(
            f"{path}: cannot be read, got {error.strerror}; expected a lock file. Name another"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidData(
            f"{path}: not a lock file, got {error}; expected what softlabels pull writes. Restore it, or delete it and "
            "pull again"
        ) from None


def write_lock(path: Path, store: Store, source: str) -> LockEntry:
    """Pin a store in a lock file; entries of other stores stay.

    Args:
        path: Path of the lock file, which is made if it does not exist.
        store: Store whose snapshot is pinned.
        source: Location that it came from.

    Returns:
        The entry that was written.

    Raises:
        InvalidData: The file exists and is no lock file.
        StorageFailed: The file cannot be written.

    Example:
        >>> write_lock(Path("softlabels.lock"), sl.open("labels"), "s3://team/labels").rows  # doctest: +SKIP
        1797
    """
    snapshot = store.snapshot
    entry = LockEntry(digest=snapshot.digest, snapshot=snapshot.number, rows=snapshot.rows, source=source)
    entries = read_lock(path) | {lock_key(store.storage, path): entry}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "stores": {name: asdict(pinned) for name, pinned in entries.items()},
    }
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with system_errors(str(path), writing=str(path)):
        try:
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return entry


def check_lock(store: Store, path: Path) -> LockEntry | None:
    """Raise an error if a lock file pins another snapshot of a store.

    Args:
        store: Store that is about to be used.
        path: Path of the lock file; a file that does not exist, or does not name the store, pins nothing.

    Returns:
        The entry of the store; None if nothing is pinned.

    Raises:
        StoreConflict: The file pins another digest.
        InvalidData: The file is no lock file.
    """
    entry = read_lock(path).get(lock_key(store.storage, path))
    if entry is not None and entry.digest != store.snapshot.digest:
        raise StoreConflict(
            f"{path}: pins another snapshot of {store.storage}, got {store.snapshot.digest}; expected {entry.digest}. "
            f"Fetch that one again with softlabels pull {entry.source} {store.storage}, or accept this one with "
            "softlabels pull --update"
        )
    return entry


def lock_key(storage: Storage, path: Path) -> str:
    """Return the name of a store in a lock file: a path relative to the file, or a URL.

    Args:
        storage: Storage of the store.
        path: Path of the lock file.
    """
    if not isinstance(storage, PosixStorage):
        return storage.location
    return Path(os.path.relpath(storage.identity, os.path.realpath(path.parent))).as_posix()


def _parse(data: bytes) -> dict[str, LockEntry]:
    """Return the entries in the bytes of a lock file; raises ValueError for anything else."""
    fields = Fields(json.loads(data.decode(), object_pairs_hook=canonical_json.unique))
    if fields.get("format") != FORMAT or fields.get("version") != VERSION:
        raise ValueError(f"format {fields.get('format')!r:.40}, version {fields.get('version')!r:.40}")
    stores = fields.object("stores")
    return {name: _entry(stores.object(name)) for name in stores}


def _entry(fields: Fields) -> LockEntry:
    return LockEntry(
        digest=fields.hash("digest"),
        snapshot=fields.integer("snapshot", 1, MAX_UNITS),
        rows=fields.integer("rows", 1, MAX_ROWS),
        source=fields.text("source"),
    )
