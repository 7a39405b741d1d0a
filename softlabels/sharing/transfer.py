"""Copy a sealed store from one storage to another, verified and resumable.

Every file is hashed on the way and compared with what the snapshot says of it. A unit becomes visible at the target
when its record is put, after its shard, and a snapshot when all units are there. So a copy that was interrupted is an
unsealed store, never one that looks complete, and the same call copies only what is missing. A store that has got more
units since is topped up in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any

from blake3 import blake3

from softlabels.errors import StoreConflict, StoreCorrupt
from softlabels.store import Store, open_store
from softlabels.store.format import paths
from softlabels.store.format.descriptor import find_descriptor
from softlabels.store.format.limits import MAX_DESCRIPTOR_BYTES, MAX_RECORD_BYTES, MAX_SNAPSHOT_BYTES
from softlabels.store.format.record import Record, parse_record
from softlabels.store.format.snapshot import read_table
from softlabels.store.storage.read_errors import FETCH, REPAIR, SEAL, read_errors
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.storage import TEMPORARY, Location, Storage

DEFAULT_WORKERS = 8
"""Units that are copied at the same time."""

TransferProgress = Callable[[int, int], None]
"""Called with the bytes of shards that are at the target, and the bytes of all shards."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The outcome of a push or a pull.

    Attributes:
        source: Location that was copied from.
        target: Location that was copied to.
        digest: Digest of the snapshot, equal in both.
        rows: Rows of the store.
        units: Units of the store.
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
    to: Location,
    *,
    digest: str | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: TransferProgress | None = None,
) -> Transfer:
    """Copy a sealed store to another location.

    Args:
        store: Location of the store.
        to: Directory, or URL such as ``s3://team/labels``. It may hold an earlier or interrupted copy of the store.
        digest: Digest that the snapshot must have; by default any.
        workers: Units that are copied at the same time.
        progress: Called with bytes done and bytes in all.

    Raises:
        StoreNotFound: There is no sealed store.
        StoreCorrupt: A file is not what was sealed, or there is no snapshot with that digest; names the file.
        StoreConflict: The target holds another store, or something else.
        StorageFailed: A storage refused; what was copied is kept.
        StorageUnknown: It is unknown if a file was stored; call again.

    Example:
        >>> push("labels", "s3://team/labels")  # doctest: +SKIP
        Transfer(source='labels', target='s3://team/labels', ...)
    """
    source, target = open_store(store, digest=digest), open_storage(to)
    _prepare(source, target)
    copier = _UnitCopier(source, target, progress)
    with ThreadPoolExecutor(workers, thread_name_prefix="softlabels-copy") as pool:
        futures = [pool.submit(copier.copy, unit) for unit in range(source.units)]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    for name, expected in _sealed_files(source):
        _copy_file(source.storage, target, name, expected, SEAL)
    snapshot = source.storage.read(paths.snapshot_path(source.snapshot.number), MAX_SNAPSHOT_BYTES)
    target.put_if_absent(paths.snapshot_path(source.snapshot.number), snapshot)
    copied = open_store(target, snapshot=source.snapshot.number)
    if copied.snapshot.digest != source.snapshot.digest:
        raise StoreConflict(
            f"{target}: snapshot {source.snapshot.number} there is another one, got {copied.snapshot.digest}; expected "
            f"{source.snapshot.digest}. Name another target"
        )
    return Transfer(
        source=str(source.storage), target=str(target), digest=source.snapshot.digest, rows=source.rows,
        units=source.units, new_units=copier.units, bytes=copier.bytes,
    )  # fmt: skip


def pull(
    source: Location,
    store: Location,
    *,
    digest: str | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: TransferProgress | None = None,
) -> Transfer:
    """Copy a sealed store from another location; see `push`, which this is with the locations exchanged.

    Args:
        source: Location to copy from, such as ``https://example.org/labels``.
        store: Location of the copy.
        digest: Digest that the snapshot must have; by default any.
        workers: Units that are copied at the same time.
        progress: Called with bytes done and bytes in all.

    Raises:
        SoftLabelsError: As `push` does.
    """
    return push(source, store, digest=digest, workers=workers, progress=progress)


def _prepare(source: Store, target: Storage) -> None:
    """Make the target ready: codebooks and tokenizer, then the descriptor, as a new store is made.

    Raises:
        StoreConflict: Another store, or something else, is there.
    """
    existing = find_descriptor(target)
    if existing is None:
        others = [name for name in target.list_names("") if name not in {TEMPORARY, paths.CODEBOOKS, paths.TOKENIZERS}]
        if others:
            raise StoreConflict(
                f"{target}: is not empty, got {', '.join(others[:3])}; expected an empty or new location. Name another"
            )
        target.prepare()
    elif existing.digest != source.descriptor.digest:
        raise StoreConflict(
            f"{target}: holds another store, got descriptor {existing.digest}; expected {source.descriptor.digest}. "
            "Name another target"
        )
    for head in source.heads.values():
        if head.codebook is not None:
            _copy_file(source.storage, target, paths.codebook_path(head.codebook), head.codebook)
    if source.inputs is not None and source.inputs.tokenizer is not None:
        name = paths.tokenizer_path(source.inputs.tokenizer)
        if source.storage.info(name) is not None:
            _copy_file(source.storage, target, name, None)
    target.put_if_absent(paths.DESCRIPTOR, source.storage.read(paths.DESCRIPTOR, MAX_DESCRIPTOR_BYTES))


def _sealed_files(source: Store) -> Iterator[tuple[str, str]]:
    """Yield the names and hashes of the files of the snapshot, but for the snapshot itself."""
    snapshot = source.snapshot
    yield paths.table_path(snapshot.number, snapshot.table), snapshot.table
    if snapshot.prior is not None:
        yield paths.prior_path(snapshot.number, snapshot.prior), snapshot.prior
    if snapshot.probe is not None:
        yield paths.probe_path(snapshot.number, snapshot.probe), snapshot.probe


class _UnitCopier:
    """Copies units; may be used by several threads.

    Attributes:
        units: Units copied.
        bytes: Bytes of their shards.
    """

    def __init__(self, source: Store, target: Storage, progress: TransferProgress | None) -> None:
        self.units = 0
        self.bytes = 0
        self._source = source
        self._target = target
        self._progress = progress
        self._records = read_table(source.storage, source.snapshot, ["record"])["record"]
        self._done = 0
        self._lock = Lock()

    def copy(self, unit: int) -> None:
        """Copy a unit unless the target has its record."""
        name = paths.record_path(unit)
        data, record = self._record(unit)
        is_new = self._target.info(name) is None
        if is_new:
            shard = paths.shard_path(unit, record.attempt, self._source.descriptor.shard_format)
            _copy_file(self._source.storage, self._target, shard, record.blake3, REPAIR)
            if record.extras is not None:
                extras = paths.extras_path(unit, record.attempt)
                _copy_file(self._source.storage, self._target, extras, record.extras[1], REPAIR)
            self._target.put_if_absent(name, data)
        if self._target.read(name, MAX_RECORD_BYTES) != data:
            raise StoreConflict(
                f"{self._target.locate(name)}: another writer has committed this unit; expected a copy of "
                f"{self._source.storage}. Name another target"
            )
        with self._lock:
            self.units += is_new
            self.bytes += record.size if is_new else 0
            self._done += record.size
            if self._progress is not None:
                self._progress(self._done, self._source.bytes)

    def _record(self, unit: int) -> tuple[bytes, Record]:
        """Return a record of the source, which must be the sealed one."""
        storage, name = self._source.storage, paths.record_path(unit)
        with read_errors(storage.locate(name), REPAIR):
            data = storage.read(name, MAX_RECORD_BYTES)
            record = parse_record(data, unit, self._source.descriptor)
            if record.digest != self._records[unit].decode("latin-1"):
                raise ValueError("it is not the record that was sealed")
        return data, record


def _copy_file(source: Storage, target: Storage, name: str, digest: str | None, advice: str = FETCH) -> None:
    """Copy a file unless the target has it; it gets its name only if its hash is right.

    Raises:
        StoreCorrupt: The file is missing, or has other bytes than were sealed, at the source or at the target.
    """
    if target.info(name) is not None:
        if digest is not None and _hash(target, name) != digest:
            raise StoreCorrupt(f"{target.locate(name)}: has other bytes than were sealed. Delete it and run again")
        return
    if source.info(name) is None:
        raise StoreCorrupt(f"{source.locate(name)}: is missing; {advice}")
    hasher, file = blake3(), target.create()
    try:
        with read_errors(source.locate(name), advice):
            for block in source.read_blocks(name):
                hasher.update(block)
                file.write(block)
            if digest is not None and hasher.hexdigest() != digest:
                raise ValueError("its bytes are not those that were sealed")
        file.publish(name)
    finally:
        file.discard()


def _hash(storage: Storage, name: str) -> str:
    """Return the BLAKE3 of a file, hexadecimal."""
    hasher = blake3()
    for block in storage.read_blocks(name):
        hasher.update(block)
    return str(hasher.hexdigest())
