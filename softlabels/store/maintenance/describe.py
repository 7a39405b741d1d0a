"""Description of a store: contents, provenance, completeness and fidelity."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.labels import Head
from softlabels.store.format import paths
from softlabels.store.format.description import Description, last_description
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.descriptor_file import open_with_descriptor
from softlabels.store.format.head_fidelity import HeadFidelity
from softlabels.store.format.provenance import DataRecord, SubsetRecord, TeacherRecord
from softlabels.store.format.record import read_record
from softlabels.store.format.skipped_rows import SkippedRow
from softlabels.store.format.snapshot import Snapshot, read_snapshot, read_table
from softlabels.store.format.token_inputs import TokenInputs
from softlabels.store.format.view_record import ViewRecord
from softlabels.store.sealed_store import Store
from softlabels.store.storage.storage import Location, Storage
from softlabels.store.store_opening import check_digest
from softlabels.version import SCHEMA_VERSION

MAX_HOLES = 8
"""Missing units that a description names."""
MAX_TIMES = 64
"""Records whose time is looked up."""
MAX_TIME = 253_402_300_799
"""The last second of the year 9999, since 1970: later times have no name."""


@dataclass(frozen=True, kw_only=True)
class HeadDescription:
    """A head of a store, and how faithful its labels are.

    Attributes:
        head: The head.
        fidelity: Fidelity as the snapshot holds it; None if it was not measured.
    """

    head: Head
    fidelity: HeadFidelity | None

    @property
    def warning(self) -> str | None:
        """Sentence about poor labels; None for good ones."""
        return None if self.fidelity is None else self.fidelity.overall.warning

    def to_json(self) -> dict[str, Any]:
        """Return the head as ``inspect --json`` prints it."""
        fidelity = None if self.fidelity is None else self.fidelity.to_json()
        return self.head.to_json() | {"fidelity": fidelity, "warning": self.warning}


@dataclass(frozen=True, kw_only=True)
class StoreDescription:
    """The contents of a store.

    Attributes:
        rows: Rows of the committed units.
        units: Committed units.
        missing_units: Units without a record; 0 for a store that grows.
        holes: The first missing units.
        committed: Times of the first and the last commit, by the clock of the storage; None without units.
        unit_rows: Rows of a complete unit.
        unit_bytes: Bytes of the smallest, the median and the largest shard; None without units.
        bytes: Bytes of all shards.
        snapshot: The last snapshot, which may name units that are missing now; None if the store was never sealed.
        snapshots: Number of snapshots.
        quarantined: Units that repair set aside.
        software: Names and versions of the software that wrote the first and the last unit.
        teacher: The teacher.
        data: The data.
        shard_format: ``zarr`` or ``parquet``.
        codec: Compression of the shards.
        grows: True if rows are appended.
        heads: Heads by name.
        inputs: Token ids that the store holds; None if it holds labels alone.
        views: Augmentation whose views the rows are labels of; None if rows are labels of inputs as they are.
        skipped: Rows without labels, with their numbers in the data; `rows` does not count them.
        subset_of: Snapshot of which the store is a part; None if it was labelled as a whole.
        description: Statements of the owner: licence, terms, data, contact; None if there are none.
    """

    rows: int
    units: int
    missing_units: int
    holes: tuple[int, ...]
    committed: tuple[dt.datetime, dt.datetime] | None
    unit_rows: int
    unit_bytes: tuple[int, int, int] | None
    bytes: int
    snapshot: Snapshot | None
    snapshots: int
    quarantined: int
    software: tuple[str, ...]
    teacher: TeacherRecord
    data: DataRecord
    shard_format: str
    codec: str
    grows: bool
    heads: Mapping[str, HeadDescription]
    inputs: TokenInputs | None = None
    views: ViewRecord | None = None
    skipped: tuple[SkippedRow, ...] = ()
    subset_of: SubsetRecord | None = None
    description: Description | None = None

    @property
    def bytes_per_row(self) -> float:
        """Bytes of all shards per row."""
        return self.bytes / self.rows if self.rows else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the description as ``inspect --json`` prints it."""
        times = None
        if self.committed is not None:
            first, last = (time.isoformat(timespec="seconds") for time in self.committed)
            times = {"first": first, "last": last}
        smallest, median, largest = self.unit_bytes or (None, None, None)
        snapshot = self.snapshot
        return {
            "schema_version": SCHEMA_VERSION,
            "rows": self.rows,
            "units": self.units,
            "missing_units": self.missing_units,
            "holes": list(self.holes),
            "committed": times,
            "unit_rows": self.unit_rows,
            "unit_bytes": {"min": smallest, "median": median, "max": largest},
            "bytes": self.bytes,
            "bytes_per_row": self.bytes_per_row,
            "snapshot": None
            if snapshot is None
            else {"number": snapshot.number, "digest": snapshot.digest, "rows": snapshot.rows, "units": snapshot.units},
            "teacher": self.teacher.to_json(),
            "data": self.data.to_json(),
            "shard": {"format": self.shard_format, "codec": self.codec},
            "grows": self.grows,
            "snapshots": self.snapshots,
            "quarantined": self.quarantined,
            "software": list(self.software),
            "skipped": [entry._asdict() for entry in self.skipped],
            "heads": {name: head.to_json() for name, head in self.heads.items()},
            "inputs": None if self.inputs is None else self.inputs.to_json(),
            "subset_of": None if self.subset_of is None else self.subset_of.to_json(),
            "description": None if self.description is None else self.description.to_json(),
            "views": None if self.views is None else self.views.to_json(),
        }


def describe_store(location: Location, *, digest: str | None = None) -> StoreDescription:
    """Return a description of a store, which need not be sealed.

    Args:
        location: Location of the store.
        digest: Digest that the last snapshot must have; None: any.

    Raises:
        StoreNotFound: There is no store.
        StoreCorrupt: The descriptor, the snapshot or a record is damaged, or the digest is another one.

    Example:
        >>> describe_store("labels").rows  # doctest: +SKIP
        1797
    """
    check_digest(location, digest)
    storage, descriptor = open_with_descriptor(location)
    numbers = paths.snapshot_numbers(storage)
    snapshot = read_snapshot(storage, numbers[-1]) if numbers else None
    units = _units(storage, snapshot)
    last = last_description(storage)
    rows, sizes, skipped = _figures(storage, descriptor, snapshot, units)
    fidelity = {} if snapshot is None else snapshot.fidelity
    return StoreDescription(
        rows=int(rows.sum()),
        units=len(units),
        missing_units=0 if descriptor.grows else descriptor.units - len(units),
        holes=() if descriptor.grows else _holes(descriptor.units, units),
        committed=_times(storage, units),
        unit_rows=descriptor.unit_rows,
        unit_bytes=_quantiles(sizes) if len(sizes) else None,
        bytes=int(sizes.sum()),
        snapshot=snapshot,
        snapshots=len(numbers),
        quarantined=_quarantined(storage),
        software=_software(storage, descriptor, units),
        teacher=descriptor.teacher,
        data=descriptor.data,
        shard_format=descriptor.shard_format,
        codec=descriptor.codec,
        grows=descriptor.grows,
        heads={
            name: HeadDescription(head=head, fidelity=fidelity.get(name)) for name, head in descriptor.heads.items()
        },
        inputs=descriptor.inputs,
        views=descriptor.views,
        skipped=skipped,
        subset_of=descriptor.subset_of,
        description=None if last is None else last[1],
    )


def _units(storage: Storage, snapshot: Snapshot | None) -> list[int]:
    """Return the committed units; from a storage that lists no files, those of the snapshot."""
    if storage.lists:
        return list(paths.committed_units(storage))
    return [] if snapshot is None else list(range(snapshot.units))


def _figures(
    storage: Storage, descriptor: Descriptor, snapshot: Snapshot | None, units: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[SkippedRow, ...]]:
    """Return rows and shard's bytes of each committed unit, from the snapshot if it names all, and the skipped rows."""
    if snapshot is not None and snapshot.units == len(units):
        table = read_table(storage, snapshot, ["unit", "rows", "size"])
        if np.array_equal(table["unit"], units):
            skipped = Store(storage, descriptor, snapshot).skipped() if snapshot.skipped else []
            return table["rows"], table["size"], tuple(skipped)
    records = [read_record(storage, unit, descriptor) for unit in units]
    rows = np.array([record.rows for record in records], np.int64)
    sizes = np.array([record.size for record in records], np.int64)
    first = {record.unit: record.unit * descriptor.unit_rows for record in records}
    lacking = (entry._replace(row=first[record.unit] + entry.row) for record in records for entry in record.skipped)
    return rows, sizes, tuple(lacking)


def _quantiles(sizes: NDArray[np.int64]) -> tuple[int, int, int]:
    smallest, median, largest = np.quantile(sizes, [0, 0.5, 1], method="nearest").tolist()
    return smallest, median, largest


def _holes(count: int, units: list[int]) -> tuple[int, ...]:
    """Return the first units that are missing."""
    committed = set(units)
    return tuple(islice((unit for unit in range(count) if unit not in committed), MAX_HOLES))


def _times(storage: Storage, units: list[int]) -> tuple[dt.datetime, dt.datetime] | None:
    """Return the times of the first and the last commit, from the records of some units.

    The clock is that of the storage, and copying a store makes its files young again.
    """
    sample = units[:: max(1, len(units) // MAX_TIMES)] + units[-1:]
    infos = [storage.info(paths.record_path(unit)) for unit in sample]
    times = [info.modified for info in infos if info is not None]
    if not times:
        return None
    # A file may bear any time.
    first, last = (dt.datetime.fromtimestamp(min(max(time, 0), MAX_TIME), dt.UTC) for time in (min(times), max(times)))
    return first, last


def _quarantined(storage: Storage) -> int:
    """Return the number of records that repair set aside; 0 for a storage that lists no files."""
    if not storage.lists:
        return 0
    records = f"{paths.QUARANTINE}/{paths.RECORDS}/"
    return sum(1 for name in storage.walk(paths.QUARANTINE) if name.startswith(records))


def _software(storage: Storage, descriptor: Descriptor, units: list[int]) -> tuple[str, ...]:
    """Return the software that wrote the first and the last unit."""
    ends = {read_record(storage, unit, descriptor).software for unit in units[:1] + units[-1:]}
    return tuple(sorted(ends))
