"""The committed units of a store as arrays, which is all that sealing needs of their records.

Records are read one by one and let go, so memory is 250 bytes a unit. A record is parsed and checked in full the first
time. One whose bytes have the digest that a snapshot names which was sealed on this machine is only read and hashed.
Nothing is taken for granted: every record that a snapshot will name is read from the storage and hashed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import StoreCorrupt, StoreError
from softlabels.fidelity import Fidelity, FidelityMean
from softlabels.store.format import canonical_json, paths, unit_table
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.limits import MAX_RECORD_BYTES
from softlabels.store.format.record import Record, read_record
from softlabels.store.format.snapshot import Snapshot, read_table
from softlabels.store.read_ahead import map_ahead
from softlabels.store.storage.read_errors import REPAIR, SEAL
from softlabels.store.storage.storage import Storage

Columns = dict[str, NDArray[Any]]


class UnitFigures(NamedTuple):
    """The figures of a record that sealing needs; see Record for the fields.

    Attributes:
        unit: Number of the unit.
        rows: Rows that have labels.
        size: Bytes of the shard.
        attempt: Part of the names of shard and extras.
        blake3: BLAKE3 of the shard.
        record: Digest of the record.
        keys: BLAKE3 of the keys.
        has_extras: True if the unit has an extras file.
        skipped: Number of rows without labels.
        fidelity: Fidelity of a few rows, by head.
    """

    unit: int
    rows: int
    size: int
    attempt: str
    blake3: str
    record: str
    keys: str
    has_extras: bool
    skipped: int
    fidelity: Mapping[str, Fidelity]

    @classmethod
    def of_record(cls, record: Record) -> Self:
        """Return the figures of a record."""
        return cls(
            unit=record.unit,
            rows=record.rows,
            size=record.size,
            attempt=record.attempt,
            blake3=record.blake3,
            record=record.digest,
            keys=record.keys,
            has_extras=record.extras is not None,
            skipped=len(record.skipped),
            fidelity=record.fidelity,
        )

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the figures of a record that was checked before, as JSON."""
        return cls(
            unit=value["unit"],
            rows=value["rows"],
            size=value["shard"]["size"],
            attempt=value["attempt"],
            blake3=value["shard"]["blake3"],
            record=value["digest"],
            keys=value["keys"],
            has_extras=value["extras"] is not None,
            skipped=len(value.get("skipped", {}).get("rows", ())),
            fidelity={head: Fidelity.from_json(figures) for head, figures in value.get("fidelity", {}).items()},
        )


class CommittedUnits:
    """Figures of the units 0 to ``count`` - 1.

    Args:
        count: Number of units.

    Attributes:
        columns: Columns of the table of units; see unit_table.COLUMNS.
        skipped: Rows without labels.
        with_extras: Units that have an extras file, ascending.
        fidelity: Mean fidelity over units by head.
        poorest: Fidelity that lists the least mass, with its unit, by head.
    """

    def __init__(self, count: int) -> None:
        self.columns: Columns = {
            name: np.zeros(count, f"S{width}" if width else np.int64) for name, width in unit_table.COLUMNS.items()
        }
        self.skipped = 0
        self.with_extras: list[int] = []
        self.fidelity: dict[str, FidelityMean] = {}
        self.poorest: dict[str, tuple[Fidelity, int]] = {}

    def __len__(self) -> int:
        return len(self.columns["unit"])

    @property
    def rows(self) -> int:
        """Rows that have labels."""
        return int(self.columns["rows"].sum())

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return int(self.columns["size"].sum())

    def add(self, figures: UnitFigures) -> None:
        """Add a unit; units come in their order.

        Args:
            figures: Figures of its record.
        """
        unit = figures.unit
        for name in ("unit", "rows", "size", "attempt", "blake3", "record", "keys"):
            self.columns[name][unit] = getattr(figures, name)
        self.skipped += figures.skipped
        if figures.has_extras:
            self.with_extras.append(unit)
        for head, fidelity in figures.fidelity.items():
            self.fidelity.setdefault(head, FidelityMean()).add(fidelity)
            if head not in self.poorest or fidelity.mass < self.poorest[head][0].mass:
                self.poorest[head] = fidelity, unit

    def record(self, storage: Storage, descriptor: Descriptor, unit: int) -> Record:
        """Return the record of a unit, read again.

        Args:
            storage: Storage of the store.
            descriptor: Descriptor of the store.
            unit: Number of the unit.

        Raises:
            StoreCorrupt: It is missing, damaged, or not the one whose figures are here.
        """
        record = read_record(storage, unit, descriptor)
        if record.digest != self.columns["record"][unit].decode("latin-1"):
            raise StoreCorrupt(f"{storage.locate(paths.record_path(unit))}: changed while the store was sealed; {SEAL}")
        return record

    def to_table(self) -> bytes:
        """Return the table of units."""
        rows = self.columns["rows"]
        return unit_table.to_bytes(self.columns | {"first_row": np.cumsum(rows) - rows})


def read_committed(storage: Storage, descriptor: Descriptor, count: int, last: Snapshot | None) -> CommittedUnits:
    """Return the figures of the units 0 to ``count`` - 1, each from its record.

    Args:
        storage: Storage of the store.
        descriptor: Descriptor of the store.
        count: Number of units, all of them committed.
        last: Last snapshot of the store, if its records were checked on this machine; they are not parsed again.

    Raises:
        StoreCorrupt: A record is missing or damaged.
    """
    known = _known_digests(storage, descriptor, last)

    def read(unit: int) -> UnitFigures:
        figures = _read_known(storage, unit, known[unit].decode("latin-1")) if unit < len(known) else None
        return figures or UnitFigures.of_record(read_record(storage, unit, descriptor))

    committed = CommittedUnits(count)
    for figures in map_ahead(storage.read_threads, read, range(count)):
        committed.add(figures)
    return committed


def check_shard_sizes(storage: Storage, descriptor: Descriptor, committed: CommittedUnits) -> None:
    """Raise StoreCorrupt unless the shard of each unit is there and has the size in its record.

    Args:
        storage: Storage of the store.
        descriptor: Descriptor of the store.
        committed: The units.
    """
    sizes: Mapping[str, int] = {}
    listed = ""
    attempts, expected = committed.columns["attempt"], committed.columns["size"]
    for unit in range(len(committed)):
        name = paths.shard_path(unit, attempts[unit].decode("latin-1"), descriptor.shard_format)
        directory, _, file = name.rpartition("/")
        if directory != listed:
            sizes, listed = storage.list_sizes(directory), directory
        size = sizes.get(file)
        if size != expected[unit]:
            problem = "is missing" if size is None else f"has {size:,} bytes where {expected[unit]:,} were committed"
            raise StoreCorrupt(f"{storage.locate(name)} {problem}; {REPAIR}")


def _known_digests(storage: Storage, descriptor: Descriptor, last: Snapshot | None) -> NDArray[Any]:
    """Return the digests of the records that a snapshot names; none without one, or if its table is damaged."""
    if last is not None and last.descriptor == descriptor.digest:
        with suppress(StoreError):
            return read_table(storage, last, ["record"])["record"]
    return np.zeros(0, "S64")


def _read_known(storage: Storage, unit: int, digest: str) -> UnitFigures | None:
    """Return the figures of a record if it has the digest; None otherwise, and then reading it as usual tells why."""
    try:
        data = storage.read(paths.record_path(unit), MAX_RECORD_BYTES)
        if not canonical_json.has_digest(data, digest):
            return None
        figures = UnitFigures.of_json(json.loads(data))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return figures if figures.unit == unit else None
