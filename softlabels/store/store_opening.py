"""Opening of sealed stores: the snapshot that is read, and the digest it must have."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from softlabels.errors import InvalidArgument, StoreCorrupt, StoreNotFound
from softlabels.store.format import paths
from softlabels.store.format.descriptor_file import open_with_descriptor
from softlabels.store.format.snapshot import Snapshot, read_snapshot
from softlabels.store.sealed_store import Store
from softlabels.store.storage.storage import Location, Storage

log = logging.getLogger("softlabels")


def open_store(location: Location, *, snapshot: int | None = None, digest: str | None = None) -> Store:
    """Open a sealed store for reading.

    A digest names one snapshot of one store for good. Every byte that is read then is one that the digest covers,
    whoever has had the store in between.

    Args:
        location: Location of the store.
        snapshot: Number of the snapshot to read; by default the last.
        digest: Digest of the snapshot to read; by default any. It need not be the last one.

    Raises:
        StoreNotFound: There is no store, or it was never sealed.
        StoreCorrupt: The store is damaged, or has no snapshot with that digest.
        StoreUnsupported: The store needs a newer softlabels.
        InvalidArgument: The digest is not one.

    Example:
        >>> store = open_store("labels")  # doctest: +SKIP
        >>> open_store("copy/of/labels", digest=store.snapshot.digest).rows == store.rows  # doctest: +SKIP
        True
    """
    if digest is not None and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InvalidArgument(
            f"digest: got {digest!r:.100}; expected 64 hexadecimal digits, as softlabels inspect shows"
        )
    storage, descriptor = open_with_descriptor(location)
    numbers, lost = paths.snapshots(storage) if snapshot is None else ([snapshot], None)
    selected = _select(storage, numbers, digest)
    if selected.descriptor != descriptor.digest:
        raise StoreCorrupt(f"{storage}: the descriptor is not the one that was sealed; run softlabels verify")
    if digest is None and lost is not None:
        log.warning(
            "%s: snapshot %d is missing, so snapshot %d with %d rows is read. Run softlabels seal",
            storage, lost, selected.number, selected.rows,
        )  # fmt: skip
    return Store(storage, descriptor, selected)


def check_digest(location: Location, digest: str | None) -> None:
    """Raise unless the last snapshot of a store has a digest; do nothing for None.

    Args:
        location: Location of the store.
        digest: Digest of the snapshot.

    Raises:
        StoreCorrupt: The last snapshot has another digest, or the store is damaged.
        StoreNotFound: There is no store, or it was never sealed.
        InvalidArgument: The digest is not one.
    """
    if digest is None:
        return
    selected = open_store(location, digest=digest).snapshot
    last = open_store(location).snapshot
    if last.digest != digest:
        raise StoreCorrupt(
            f"{location}: the last snapshot has another digest, got {last.digest} of snapshot {last.number}; expected "
            f"{digest}, which is snapshot {selected.number}. Pin the last one, or fetch the store again"
        )


def check_digests(locations: Sequence[Location], digests: Sequence[str]) -> None:
    """Raise unless the last snapshots of stores have these digests; do nothing if there are none.

    Args:
        locations: Locations of the stores.
        digests: Digests of the snapshots, in the order of the stores.

    Raises:
        InvalidArgument: There are more or fewer digests than stores.
        StoreCorrupt: A store has another digest, or is damaged.
    """
    if digests and len(digests) != len(locations):
        raise InvalidArgument(
            f"digest: got {len(digests)} for {len(locations)} stores; expected one per store, in their order"
        )
    for location, digest in zip(locations, digests, strict=False):
        check_digest(location, digest)


def _select(storage: Storage, numbers: list[int], digest: str | None) -> Snapshot:
    """Return the last snapshot, or the one with a digest."""
    if not numbers:
        raise StoreNotFound(
            f"{storage} is not sealed: units may still be missing. Run softlabels generate until it is whole, or "
            "softlabels seal"
        )
    if digest is None:
        return read_snapshot(storage, numbers[-1])
    for number in reversed(numbers):
        snapshot = read_snapshot(storage, number)
        if snapshot.digest == digest:
            return snapshot
    raise StoreCorrupt(
        f"{storage}: no snapshot has the digest {digest}, got {snapshot.digest} of snapshot {number}; fetch the store "
        "again, or check which snapshot you want with softlabels inspect"
    )
