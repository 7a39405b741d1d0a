"""The descriptor that records and snapshots name: the way to tell a damaged descriptor from damaged units."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from softlabels.store.format import canonical_json, paths
from softlabels.store.format.limits import MAX_RECORD_BYTES, MAX_SNAPSHOT_BYTES
from softlabels.store.storage.storage import Storage

SAMPLED_RECORDS = 16
"""Records that are asked, evenly spread."""


def named_descriptors(storage: Storage) -> tuple[set[str], set[str]]:
    """Return the digests of descriptors that the last snapshot names and that records name.

    Documents that are damaged name nothing.
    """
    snapshots = [paths.snapshot_path(number) for number in paths.snapshot_numbers(storage)[-1:]]
    units = list(paths.committed_units(storage)) if storage.lists else []
    records = [paths.record_path(unit) for unit in units[:: max(1, len(units) // SAMPLED_RECORDS)]]
    return (
        set(_digests(storage, snapshots, MAX_SNAPSHOT_BYTES)),
        set(_digests(storage, records, MAX_RECORD_BYTES)),
    )


def _digests(storage: Storage, names: list[str], limit: int) -> Iterator[str]:
    for name in names:
        with suppress(ValueError, OSError):
            digest = canonical_json.parse_signed(storage.read(name, limit), limit).get("descriptor")
            if isinstance(digest, str):
                yield digest
