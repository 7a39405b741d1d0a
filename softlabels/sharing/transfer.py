"""Copy a sealed store from one place to another, verified and resumable.

Every file is hashed on the way and compared with what the snapshot says of it. A unit becomes visible at the target
when its record is put, after its shard, and a snapshot when all units are there. So a copy that was interrupted is an
unsealed store, never one that looks complete, and the same call copies only what is missing. A store that has got more
units since is topped up in the same way.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from softlabels.errors import StoreConflict, StoreCorrupt
from softlabels.sharing.card import CARD
from softlabels.sharing.describing import copy_description
from softlabels.sharing.lock import LockEntry, check_lock, lock_key, read_lock, write_lock
from softlabels.sharing.receivers import Receiver, copy_file, open_receiver
from softlabels.sharing.selection import KeyNames, Selection
from softlabels.sharing.signing import copy_signatures
from softlabels.sharing.subset import SubsetCopier
from softlabels.sharing.units import TransferProgress, UnitCopier
from softlabels.store import Store, open_store
from softlabels.store.format import paths
from softlabels.store.format.copying import begin_copy, end_copy
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.descriptor_file import find_descriptor, read_descriptor
from softlabels.store.format.limits import MAX_DESCRIPTOR_BYTES, MAX_SNAPSHOT_BYTES
from softlabels.store.storage.hf_storage import HfStorage
from softlabels.store.storage.posix import PosixStorage
from softlabels.store.storage.read_errors import SEAL
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.remote_storage import ReadOnly
from softlabels.store.storage.storage import TEMPORARY, Location, Storage

NETWORK_WORKERS = 16
"""Units that are copied at the same time by default if one of the places is behind a network."""
MAX_LOCAL_WORKERS = 8
"""The same between directories, at most: one per core, since hashing and copying keep a core busy."""
BESIDE_A_STORE = {TEMPORARY, paths.CODEBOOKS, paths.TOKENIZERS, ".gitattributes", CARD, "LICENSE"}
"""Names that a place may have before a store is there: what is copied before the descriptor, and what the hub makes."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The outcome of a push or a pull.

    Attributes:
        source: Location that was copied from, with the commit if it is in a repository.
        target: Location that was copied to, with the commit if it is in a repository.
        digest: Digest of the snapshot of the copy.
        rows: Rows of the copy.
        units: Units of the copy.
        new_units: Units that were copied now; the others were there.
        bytes: Bytes of the shards that were copied now.
    """

    source: str
    target: str
    digest: str
    rows: int
    units: int
    new_units: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as ``push --json`` prints them."""
        return asdict(self)


def push(
    store: Location,
    target: Location,
    *,
    digest: str | None = None,
    workers: int | None = None,
    progress: TransferProgress | None = None,
    rows: str | None = None,
    keys: KeyNames | None = None,
    heads: Iterable[str] | None = None,
    views: Iterable[int] | None = None,
    top: int | None = None,
) -> Transfer:
    """Copy a sealed store, or a part of it, to another location.

    A part is a store of its own, with a digest of its own and the digest of the snapshot that it was taken from.

    Args:
        store: Location of the store.
        target: Directory, or URL such as ``s3://team/labels`` or ``hf://datasets/team/labels``. It may hold an earlier
            or interrupted copy of the store.
        digest: Digest that the snapshot must have; by default any.
        workers: Units that are copied at the same time; by default 16, or between directories one per core.
        progress: Called with bytes (rows of a part) done and in all.
        rows: Range of row numbers to copy, such as ``0:1000``; by default all.
        keys: Keys or ids of the rows to copy, or a file with one a line; by default all.
        heads: Names of the heads to copy; by default all.
        views: Numbers of the views to copy; by default all.
        top: Number of likeliest classes of each row to copy, at most, from labels in the encodings topk, adaptive and
            dense; by default those of the store.

    Raises:
        InvalidArgument: The part is empty, or the store lacks what was named.
        StoreNotFound: There is no sealed store.
        StoreCorrupt: A file is not what was sealed, or there is no snapshot with that digest; names the file.
        StoreConflict: The target holds another store, or something else.
        StorageFailed: A storage refused; copied files stay at the target.
        StorageUnknown: It is unknown if a file was stored; call again.

    Example:
        >>> push("labels", "s3://team/labels")  # doctest: +SKIP
        Transfer(source='labels', target='s3://team/labels', ...)
    """
    selection = Selection.of(rows=rows, keys=keys, heads=heads, views=views, top=top)
    return _transfer(open_store(store, digest=digest), open_storage(target), selection, workers, progress)


def pull(
    source: Location,
    store: Location,
    *,
    digest: str | None = None,
    workers: int | None = None,
    progress: TransferProgress | None = None,
    rows: str | None = None,
    keys: KeyNames | None = None,
    heads: Iterable[str] | None = None,
    views: Iterable[int] | None = None,
    top: int | None = None,
    lock: str | os.PathLike[str] | None = None,
    update: bool = False,
) -> Transfer:
    """Copy a sealed store from another location; see `push`, which this is with the locations exchanged.

    Args:
        source: Location to copy from, such as ``https://example.org/labels``.
        store: Location of the copy.
        digest: Digest that the snapshot must have; by default the one that ``lock`` pins, or else any.
        workers: Units that are copied at the same time; by default 16, or between directories one per core.
        progress: Called with bytes (rows of a part) done and in all.
        rows: Rows to copy; this and the next four as for `push`.
        keys: Keys of the rows to copy.
        heads: Names of the heads to copy.
        views: Numbers of the views to copy.
        top: Number of likeliest classes of each row to copy.
        lock: Path of a lock file that pins the copy; by default none.
        update: If True, accept a newer snapshot than the one that is pinned, and pin it.

    Raises:
        SoftLabelsError: As `push` does.
        StoreConflict: The lock file pins another digest than ``digest``, or a newer snapshot than the source has.
        InvalidData: The lock file is damaged.
    """
    target = open_storage(store)
    path = None if lock is None else Path(lock)
    pinned = None if path is None else read_lock(path).get(lock_key(target, path))
    selection = Selection.of(rows=rows, keys=keys, heads=heads, views=views, top=top)
    if path is None or pinned is None or selection is not None:  # a part has a digest of its own, compared below
        origin = open_store(source, digest=digest)
    else:
        origin = _open_pinned(source, target, path, pinned, digest, update=update)
    outcome = _transfer(origin, target, selection, workers, progress)
    if path is not None:
        copy = open_store(target, digest=outcome.digest)
        if pinned is not None and not update and copy.snapshot.digest != pinned.digest:
            check_lock(copy, path)
        write_lock(path, copy, outcome.source)
    return outcome


def _open_pinned(
    source: Location, target: Storage, path: Path, pinned: LockEntry, digest: str | None, *, update: bool
) -> Store:
    """Return the store to copy: the snapshot that a lock file pins, or with ``update`` any that is not older.

    Args:
        source: Location to copy from.
        target: Storage of the copy.
        path: Lock file.
        pinned: Its entry of the copy.
        digest: Digest that the snapshot must have; None: any.
        update: If True, accept a newer snapshot.

    Raises:
        StoreConflict: The digest is not the pinned one, or the source lacks the pinned snapshot or is older.
        StoreCorrupt: There is no snapshot with that digest.
    """
    if not update:
        if digest not in {None, pinned.digest}:
            raise StoreConflict(
                f"{path}: pins another snapshot of {target}, got digest {digest}; expected {pinned.digest}. Accept a "
                "newer one with update=True"
            )
        digest = pinned.digest
    try:
        origin = open_store(source, digest=digest)
    except StoreCorrupt as error:
        if digest != pinned.digest:
            raise
        raise StoreConflict(
            f"{path}: pins a snapshot of {target} that the source does not have, got {error}. Accept another one with "
            "update=True"
        ) from error
    if origin.snapshot.number < pinned.snapshot:
        raise StoreConflict(
            f"{origin.storage}: the snapshot is older than the one that {path} pins, got number "
            f"{origin.snapshot.number}; expected {pinned.snapshot} or later. Was the source rolled back?"
        )
    return origin


def _transfer(
    source: Store, to: Storage, selection: Selection | None, workers: int | None, progress: TransferProgress | None
) -> Transfer:
    """Copy a store, or the selected part of it."""
    if isinstance(to, ReadOnly) and not isinstance(to, HfStorage):
        to.check_writable()
    workers = workers or default_workers(source.storage, to)
    if selection is None:
        return _copy(source, to, workers, progress)
    if not isinstance(to, HfStorage):
        return _copy_part(source, to, selection, workers, progress)
    with tempfile.TemporaryDirectory(prefix="softlabels-") as folder:
        copied = _copy_part(source, open_storage(folder), selection, workers, progress)
        return replace(_copy(open_store(folder), to, workers, None), source=copied.source)


def default_workers(source: Storage, target: Storage) -> int:
    """Return the number of units to copy at the same time.

    Args:
        source: Storage that is copied from.
        target: Storage that is copied to.

    Example:
        >>> default_workers(open_storage("labels"), open_storage("copy")) <= MAX_LOCAL_WORKERS
        True
    """
    if isinstance(source, PosixStorage) and isinstance(target, PosixStorage):
        return min(MAX_LOCAL_WORKERS, len(os.sched_getaffinity(0)))
    return NETWORK_WORKERS


def _copy_part(
    source: Store, to: Storage, selection: Selection, workers: int, progress: TransferProgress | None
) -> Transfer:
    copier = SubsetCopier(source, to, selection, progress)
    copied = copier.copy_all(workers)
    return Transfer(
        source=source.storage.origin, target=to.origin, digest=copied.snapshot.digest, rows=copied.rows,
        units=copied.units, new_units=copier.units, bytes=copier.bytes,
    )  # fmt: skip


def _copy(source: Store, to: Storage, workers: int, progress: TransferProgress | None) -> Transfer:
    receiver = open_receiver(to)
    _prepare(source, receiver)
    # Of other stores the number of rows is known, so that missing units are noticed; a repository cannot be sealed.
    is_marked = source.descriptor.grows and not isinstance(to, HfStorage)
    if is_marked and to.info(paths.snapshot_path(source.snapshot.number)) is None:
        begin_copy(to, source.snapshot.digest)
    copier = UnitCopier(source, receiver, progress)
    copier.copy_all(workers)
    for name, expected in _sealed_files(source):
        copy_file(source.storage, receiver, name, expected, SEAL)
    copy_description(source, receiver)
    copy_signatures(source, receiver)
    snapshot = source.storage.read(paths.snapshot_path(source.snapshot.number), MAX_SNAPSHOT_BYTES)
    receiver.put_if_absent(paths.snapshot_path(source.snapshot.number), snapshot)
    target = receiver.finish()
    copied = open_store(target, snapshot=source.snapshot.number)
    if copied.snapshot.digest != source.snapshot.digest:
        raise StoreConflict(
            f"{target}: snapshot {source.snapshot.number} there is another one, got {copied.snapshot.digest}; expected "
            f"{source.snapshot.digest}. Name another target"
        )
    if is_marked:
        end_copy(to)
    return Transfer(
        source=source.storage.origin, target=target.origin, digest=source.snapshot.digest, rows=source.rows,
        units=source.units, new_units=copier.units, bytes=copier.bytes,
    )  # fmt: skip


def _prepare(source: Store, receiver: Receiver) -> None:
    """Make the target ready: codebooks and tokenizer, then the descriptor, as a new store is made.

    Raises:
        StoreConflict: Another store, or something else, is there.
    """
    target = receiver.storage
    existing = find_descriptor(target)
    if existing is not None:
        _check_same(source, target, existing)
    else:
        others = [name for name in target.list_names("") if name not in BESIDE_A_STORE]
        if others:
            raise StoreConflict(
                f"{target}: is not empty, got {', '.join(others[:3])}; expected an empty or new location. Name another"
            )
        receiver.prepare()
    for head in source.heads.values():
        if head.codebook is not None:
            copy_file(source.storage, receiver, paths.codebook_path(head.codebook), head.codebook)
    if source.inputs is not None and (tokenizer := source.inputs.tokenizer) is not None:
        copy_file(source.storage, receiver, paths.tokenizer_path(tokenizer), tokenizer)
    if existing is None:
        document = source.storage.read(paths.DESCRIPTOR, MAX_DESCRIPTOR_BYTES)
        if not receiver.put_if_absent(paths.DESCRIPTOR, document):  # another copy began meanwhile
            _check_same(source, target, read_descriptor(target))


def _check_same(source: Store, target: Storage, existing: Descriptor) -> None:
    """Raise StoreConflict if a target has the descriptor of another store."""
    if existing.digest != source.descriptor.digest:
        raise StoreConflict(
            f"{target}: holds another store, got descriptor {existing.digest}; expected {source.descriptor.digest}. "
            "Name another target"
        )


def _sealed_files(source: Store) -> Iterator[tuple[str, str]]:
    """Yield the names and hashes of the files of the snapshot, but for the snapshot itself."""
    snapshot = source.snapshot
    yield paths.table_path(snapshot.number, snapshot.table), snapshot.table
    if snapshot.prior is not None:
        yield paths.prior_path(snapshot.number, snapshot.prior), snapshot.prior
    if snapshot.probe is not None:
        yield paths.probe_path(snapshot.number, snapshot.probe), snapshot.probe
