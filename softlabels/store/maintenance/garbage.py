"""Garbage collection: list, and on request delete, the files of a store that no commit refers to.

It is never part of a commit. Files younger than seven days, by the clock of the storage, stay: a shard without a record
may belong to a commit under way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from softlabels.errors import InvalidArgument
from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.descriptor_file import open_with_descriptor
from softlabels.store.format.record import find_record
from softlabels.store.format.snapshot import read_snapshot
from softlabels.store.storage.storage import TEMPORARY, Location, Storage

DAY = 86_400.0
"""Seconds of a day."""
MIN_AGE = 7.0
"""Days after which nothing that a running commit writes is younger."""
WRITTEN_FOR = re.compile(r"([0-9]{8,12})-([0-9a-f]{32})\.(zarr\.zip|parquet|safetensors)")


@dataclass(frozen=True)
class OrphanedFile:
    """A file that nothing refers to.

    Attributes:
        path: Location of the file.
        size: Size in bytes.
        reason: Reason why nothing needs it.
    """

    path: str
    size: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """The files of a store that nothing refers to.

    Attributes:
        files: Files old enough to be deleted.
        young: Files that are younger and stay.
    """

    files: tuple[OrphanedFile, ...]
    young: tuple[OrphanedFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the files old enough to be deleted."""
        return sum(file.size for file in self.files)

    @property
    def young_bytes(self) -> int:
        """Bytes of the younger files."""
        return sum(file.size for file in self.young)

    def to_json(self) -> dict[str, Any]:
        """Return the files as ``gc --json`` prints them."""
        return {
            "files": [{"path": file.path, "bytes": file.size, "reason": file.reason} for file in self.files],
            "bytes": self.bytes,
            "young": {"files": len(self.young), "bytes": self.young_bytes},
        }


def collect_garbage(location: Location, *, delete: bool = False, older_than: float = MIN_AGE) -> Garbage:
    """Return the files of a store that nothing refers to.

    Args:
        location: Location of the store.
        delete: If True, delete those that are old enough; otherwise only list them.
        older_than: Minimum age in days since the last change; a younger file may belong to a commit under way.

    Raises:
        StoreNotFound: There is no store.
        StoreCorrupt: A record or snapshot is damaged, so its references are unknown; repair first.
        InvalidArgument: A negative age.

    Example:
        >>> collect_garbage("labels").files  # doctest: +SKIP
        ()
    """
    if older_than < 0:
        raise InvalidArgument(f"older_than: negative age, got {older_than}; expected 0 or more days")
    storage, descriptor = open_with_descriptor(location)
    before = storage.clock() - older_than * DAY
    old: dict[str, OrphanedFile] = {}
    young = []
    for name, reason in _unreferenced(storage, descriptor):
        info = storage.info(name)  # None if its writer has removed it meanwhile
        if info is None:
            continue
        orphan = OrphanedFile(storage.locate(name), info.size, reason)
        if info.modified <= before:
            old[name] = orphan
        else:
            young.append(orphan)
    for name in old if delete else ():
        with suppress(FileNotFoundError):
            storage.delete(name)
    return Garbage(files=tuple(old.values()), young=tuple(young))


def _unreferenced(storage: Storage, descriptor: Descriptor) -> Iterator[tuple[str, str]]:
    for name in storage.walk(TEMPORARY):
        if not name.endswith(".lock"):
            yield name, "a writer died or was stopped before its commit"
    for name in storage.walk(paths.QUARANTINE):
        yield name, "set aside by repair"
    yield from _attempts(storage, descriptor)
    yield from _beside_snapshots(storage)


def _attempts(storage: Storage, descriptor: Descriptor) -> Iterator[tuple[str, str]]:
    """Yield shards and extras of attempts that were not committed."""
    for directory in (paths.SHARDS, paths.EXTRAS):
        for name in storage.walk(directory):
            match = WRITTEN_FOR.fullmatch(name.rpartition("/")[2])
            if not match:
                continue
            unit = int(match[1])
            record = find_record(storage, unit, descriptor)
            if record is None:
                yield name, f"unit {unit} is not committed"
            elif record.attempt != match[2]:
                yield name, f"another attempt at unit {unit} was committed"


def _beside_snapshots(storage: Storage) -> Iterator[tuple[str, str]]:
    """Yield tables, priors and probes that no snapshot names."""
    named = set()
    for number in paths.snapshot_numbers(storage):
        snapshot = read_snapshot(storage, number)
        named.add(paths.table_path(number, snapshot.table))
        if snapshot.prior is not None:
            named.add(paths.prior_path(number, snapshot.prior))
        if snapshot.probe is not None:
            named.add(paths.probe_path(number, snapshot.probe))
    for directory in (paths.SNAPSHOTS, paths.PROBE):
        for name in storage.walk(directory):
            if name.endswith((".parquet", ".safetensors")) and name not in named:
                yield name, "no snapshot names it: sealing was interrupted"
