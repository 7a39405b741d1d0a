"""Description of a store: contents, teacher, completeness and fidelity."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from itertools import islice
from typing import Any

import polars as pl

from softlabels.fidelity import Fidelity
from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor, open_with_descriptor
from softlabels.store.format.paths import QUARANTINE
from softlabels.store.format.record import read_record
from softlabels.store.format.snapshot import read_snapshot, read_table
from softlabels.store.storage.storage import Location, Storage

HOLES_NAMED = 8


LATEST = 253_402_300_799
"""The last second of the year 9999, since 1970."""


def describe_store(location: Location) -> dict[str, Any]:
    """What a store holds, as ``inspect --json`` prints it; also for one that is not sealed yet.

    Raises:
        StoreNotFound: no store there.
        StoreCorrupt: descriptor or snapshot damaged.
    """
    storage, descriptor = open_with_descriptor(location)
    numbers = paths.snapshot_numbers(storage)
    snapshot = read_snapshot(storage, numbers[-1]) if numbers else None
    committed = list(paths.committed_units(storage))
    if snapshot is not None:
        catalogue = pl.DataFrame(read_table(storage, snapshot, ["rows", "size"]))
    else:
        found = [read_record(storage, unit, descriptor) for unit in committed]
        columns = {"rows": [record.rows for record in found], "size": [record.size for record in found]}
        catalogue = pl.DataFrame(columns, schema={"rows": pl.Int64, "size": pl.Int64})
    rows, size = int(catalogue["rows"].sum()), int(catalogue["size"].sum())
    fidelity = {} if snapshot is None else snapshot.fidelity
    return {
        "rows": rows,
        "units": len(committed),
        "missing_units": 0 if descriptor.grows else descriptor.units - len(committed),
        "holes": [] if descriptor.grows else _holes(descriptor.units, committed),
        "committed": _committed(storage, committed),
        "unit_rows": descriptor.unit_rows,
        "unit_bytes": {
            name: catalogue["size"].quantile(q) for name, q in (("min", 0.0), ("median", 0.5), ("max", 1.0))
        },
        "bytes": size,
        "bytes_per_row": size / rows if rows else 0.0,
        "snapshot": None if snapshot is None else {"number": snapshot.number, "digest": snapshot.digest},
        "teacher": descriptor.teacher.to_json(),
        "data": descriptor.data.to_json(),
        "shard": {"format": descriptor.shard_format, "codec": descriptor.codec},
        "grows": descriptor.grows,
        "snapshots": len(numbers),
        "quarantined": sum(1 for name in storage.walk(QUARANTINE) if name.startswith(f"{QUARANTINE}/{paths.RECORDS}/")),
        "software": _software(storage, descriptor, committed),
        "heads": {
            name: head.to_json() | {"fidelity": fidelity.get(name), "warning": _warning(fidelity.get(name))}
            for name, head in descriptor.heads.items()
        },
    }


def _holes(units: int, committed: list[int]) -> list[int]:
    """The first units that are missing."""
    there = set(committed)
    return list(islice((unit for unit in range(units) if unit not in there), HOLES_NAMED))


def _committed(storage: Storage, committed: list[int]) -> dict[str, str] | None:
    """When the first and the last unit were committed, by the clock of the file system; None where none is."""
    if not committed:
        return None
    # Of many units a few tell; copying a store makes it young again.
    some = committed[:: max(1, len(committed) // 64)] + committed[-1:]
    infos = [storage.info(paths.record_path(unit)) for unit in some]
    times = [info.modified for info in infos if info is not None]
    if not times:
        return None
    # A file may bear any time; years that have no name are shown as the last or the first one.
    first, last = (dt.datetime.fromtimestamp(min(max(when, 0), LATEST), dt.UTC) for when in (min(times), max(times)))
    return {"first": first.isoformat(timespec="seconds"), "last": last.isoformat(timespec="seconds")}


def _warning(fidelity: Mapping[str, Any] | None) -> str | None:
    """What is wrong with poor labels; snapshots of before the error was measured lack it."""
    return None if fidelity is None else Fidelity.from_json({"error": 0.0, **fidelity}).warning


def _software(storage: Storage, descriptor: Descriptor, committed: list[int]) -> list[str]:
    """What wrote the first and the last unit."""
    ends = {read_record(storage, unit, descriptor).software for unit in (committed[:1] + committed[-1:])}
    return sorted(map(str, ends))
