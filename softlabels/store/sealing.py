"""Sealing: a snapshot of all committed units, with the tail priors, probe and fidelity that follow from them.

Everything in a snapshot follows from the descriptor, the records and their extras. If a snapshot or one of its files is
lost, sealing makes it again with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import StoreIncomplete
from softlabels.store.aggregation import aggregate
from softlabels.store.committed import CommittedUnits, check_shard_sizes, read_committed
from softlabels.store.format import array_file, canonical_json, paths
from softlabels.store.format.copying import is_unfinished_copy
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.descriptor_file import open_with_descriptor
from softlabels.store.format.record import read_record
from softlabels.store.format.snapshot import Snapshot, read_snapshot
from softlabels.store.sealing_cache import SealingCache
from softlabels.store.storage.storage import Location, Storage


def seal(location: Location) -> Snapshot:
    """Publish a snapshot of the committed units of a store.

    The snapshot that is returned is durable and holds every unit that was committed before the call. If several
    processes seal at once, each returns such a snapshot.

    Args:
        location: Location of the store.

    Returns:
        The new snapshot, or the last one if nothing has changed since.

    Raises:
        StoreNotFound: There is no store.
        StoreIncomplete: Units are missing; the message says how many and which come first.
        StoreCorrupt: A record, the size of a shard or an extras file is not what was committed.

    Example:
        >>> seal("labels").number  # doctest: +SKIP
        1
    """
    storage, descriptor = open_with_descriptor(location)
    if descriptor.grows and is_unfinished_copy(storage):
        raise StoreIncomplete(
            f"{storage}: a copy that was interrupted, got only some of its units; expected those of the snapshot that "
            "was copied. Run the same push or pull again, which seals it"
        )
    snapshot = None
    cache = SealingCache(storage)
    while snapshot is None:
        snapshot = _seal_once(storage, descriptor, cache)
    cache.add(snapshot.digest)
    return snapshot


def _seal_once(storage: Storage, descriptor: Descriptor, cache: SealingCache) -> Snapshot | None:
    """Publish a snapshot; returns None if another process published one meanwhile, which may lack newer units."""
    # Before the units are listed: what an existing snapshot holds is then part of the list.
    last = _latest(storage)
    count = _count_units(storage, descriptor)
    is_checked = last is not None and cache.has(last.digest)
    committed = read_committed(storage, descriptor, count, last if is_checked else None)
    check_shard_sizes(storage, descriptor, committed)
    if not committed.rows:
        reason = read_record(storage, 0, descriptor).skipped[0].reason
        raise StoreIncomplete(
            f"{storage}: no row has labels, got {committed.skipped:,} that were skipped, the first because of: {reason}"
        )
    listed = committed.to_table()
    if last is not None and _is_restored(storage, descriptor, last, committed, listed):
        return last
    number = 1 if last is None else last.number + 1
    priors, probe, fidelity = aggregate(storage, descriptor, committed)
    body = {
        "format": "softlabels-snapshot",
        "version": 2 if committed.skipped else 1,
        "number": number,
        "previous": None if last is None else last.digest,
        "descriptor": descriptor.digest,
        "rows": committed.rows,
        "units": count,
        "bytes": committed.size,
        "table": blake3(listed).hexdigest(),
        "prior": _put(storage, number, priors, paths.prior_path),
        "probe": _put(storage, number, probe, paths.probe_path),
        "fidelity": {head: measured.to_json() for head, measured in fidelity.items()},
    } | ({"skipped": committed.skipped} if committed.skipped else {})
    storage.put_if_absent(paths.table_path(number, str(body["table"])), listed)
    document = canonical_json.to_bytes(body | {"digest": canonical_json.digest(body)})
    return read_snapshot(storage, number) if storage.put_if_absent(paths.snapshot_path(number), document) else None


def _count_units(storage: Storage, descriptor: Descriptor) -> int:
    """Return the number of units, all of which are committed; raises StoreIncomplete if some are missing."""
    units = paths.durable_units(storage)
    count = len(units) if descriptor.grows else descriptor.units
    if descriptor.grows and not units:
        raise StoreIncomplete(f"{storage} has no rows yet; append some, then seal")
    missing = sorted(set(range(count)) - set(units))
    if missing:
        first = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise StoreIncomplete(
            f"{storage}: {len(missing)} of {count} units are not committed ({first}); make them again, with "
            "generate or your own loop, then seal"
        )
    return count


def _is_restored(
    storage: Storage, descriptor: Descriptor, snapshot: Snapshot, committed: CommittedUnits, listed: bytes
) -> bool:
    """Make the missing files of a snapshot again; returns True if it is a snapshot of these units with all files."""
    if snapshot.descriptor != descriptor.digest or snapshot.table != blake3(listed).hexdigest():
        return False
    table = paths.table_path(snapshot.number, snapshot.table)
    if storage.info(table) is None:  # a complete store may be read-only
        storage.put_if_absent(table, listed)
    digests = {paths.prior_path: snapshot.prior, paths.probe_path: snapshot.probe}
    missing = [
        path for path, digest in digests.items() if digest and storage.info(path(snapshot.number, digest)) is None
    ]
    if not missing:
        return True
    priors, probe, _ = aggregate(storage, descriptor, committed)
    arrays = {paths.prior_path: priors, paths.probe_path: probe}
    return all(_put(storage, snapshot.number, arrays[path], path) == digests[path] for path in missing)


def _latest(storage: Storage) -> Snapshot | None:
    """Return the last snapshot, made durable; None if there is none."""
    numbers = paths.snapshot_numbers(storage)
    if not numbers:
        return None
    storage.settle(paths.SNAPSHOTS)
    return read_snapshot(storage, numbers[-1])


def _put(storage: Storage, number: int, arrays: dict[str, NDArray[Any]], name: Callable[[int, str], str]) -> str | None:
    """Keep arrays with the snapshot under a name that holds their hash; the hash, or None for no arrays."""
    if not arrays:
        return None
    data, digest = array_file.to_bytes(arrays)
    storage.put_if_absent(name(number, digest), data)
    return digest
