"""Checking a whole store against its digests, setting damaged units aside, and saying what a store holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from blake3 import blake3

from softlabels.errors import StorageFailed, StoreCorrupt, StoreNotFound
from softlabels.store import files, layout
from softlabels.store.codebooks import read_codebook
from softlabels.store.descriptor import Descriptor
from softlabels.store.fidelity import Fidelity
from softlabels.store.records import Record
from softlabels.store.snapshots import open_root, read_prior, read_probe, read_snapshot, read_table
from softlabels.store.units import UnitReader, read_record
from softlabels.store.verified import Ledger

QUARANTINE = "quarantine"
HOLES_NAMED = 8
LATEST = 253_402_300_799
"""The last second of the year 9999, since 1970."""


@dataclass(frozen=True)
class Problem:
    """Something bad: the file, what is wrong with it, and the unit it belongs to if any."""

    unit: int | None
    path: str
    problem: str


@dataclass
class Report:
    """What verifying found.

    Attributes:
        units: committed units looked at.
        rows: their rows.
        skipped: units that were not read, because they are as they were when last verified here.
        bad: what is wrong, in the order it was found.
    """

    units: int = 0
    rows: int = 0
    skipped: int = 0
    bad: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.bad

    def to_json(self) -> dict[str, Any]:
        """As ``verify --json`` prints it."""
        bad = [{"unit": problem.unit, "path": problem.path, "problem": problem.problem} for problem in self.bad]
        return {"ok": self.ok, "units": self.units, "rows": self.rows, "skipped": self.skipped, "bad": bad}


def verify(
    path: str | Path,
    *,
    deep: bool = False,
    incremental: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check every file of a store: descriptor, records, shards, extras, snapshots.

    Args:
        path: the store.
        deep: also decode every row and check its values.
        incremental: skip units that were found good on this machine and whose files have not been touched since.
        progress: told the units done and those there are.

    Returns:
        What is wrong; reading goes on behind a damaged file.

    Raises:
        StoreNotFound: no store there.
        StoreCorrupt: the descriptor itself is damaged, so nothing else can be judged.
    """
    root, descriptor = open_root(path)
    report = Report()
    committed = list(layout.committed_units(root))
    sealed = _verify_snapshots(root, descriptor, report)
    for unit in sorted(set(sealed) - set(committed)):
        report.bad.append(Problem(unit, str(layout.record_path(root, unit)), "the record is missing"))
    ledger = Ledger(root) if incremental else None
    for done, unit in enumerate(committed, 1):
        _verify_unit(root, descriptor, unit, sealed.get(unit), report, ledger, deep=deep)
        if progress is not None:
            progress(done, len(committed))
    if ledger is not None:
        ledger.save()
    return report


def repair(path: str | Path, report: Report | None = None) -> list[int]:
    """Move damaged units to ``quarantine/``, so that ``generate`` makes them again; nothing is deleted.

    Args:
        path: the store.
        report: of an earlier ``verify``; by default one is made now.

    Returns:
        The units that are holes now.
    """
    root, descriptor = open_root(path)
    found = verify(path) if report is None else report
    damaged = sorted({problem.unit for problem in found.bad if problem.unit is not None})
    for unit in damaged:
        record = layout.record_path(root, unit)
        # The record first: from then on the unit is a hole, whatever happens to us.
        if record.exists():
            files.move(root, record, root / QUARANTINE / record.relative_to(root))
        shelf = layout.shard_path(root, unit, "", descriptor.shard_format).parent
        for name in files.list_names(root, shelf):
            if name.startswith(f"{unit:08d}-"):
                files.move(root, shelf / name, root / QUARANTINE / shelf.relative_to(root) / name)
    return damaged


def describe_store(path: str | Path) -> dict[str, Any]:
    """What a store holds, as ``inspect --json`` prints it; also for one that is not sealed yet.

    Raises:
        StoreNotFound: no store there.
        StoreCorrupt: descriptor or snapshot damaged.
    """
    import polars as pl  # reading a store does without it

    root, descriptor = open_root(path)
    numbers = layout.snapshot_numbers(root)
    snapshot = read_snapshot(root, numbers[-1]) if numbers else None
    committed = list(layout.committed_units(root))
    if snapshot is not None:
        catalogue = pl.DataFrame(read_table(root, snapshot, ["rows", "size"]))
    else:
        found = [read_record(root, unit, descriptor) for unit in committed]
        columns = {"rows": [record.rows for record in found], "size": [record.size for record in found]}
        catalogue = pl.DataFrame(columns, schema={"rows": pl.Int64, "size": pl.Int64})
    rows, size = int(catalogue["rows"].sum()), int(catalogue["size"].sum())
    fidelity = {} if snapshot is None else snapshot.fidelity
    return {
        "rows": rows,
        "units": len(committed),
        "missing_units": 0 if descriptor.grows else descriptor.units - len(committed),
        "holes": [] if descriptor.grows else _holes(descriptor.units, committed),
        "committed": _committed(root, committed),
        "unit_rows": descriptor.unit_rows,
        "unit_bytes": {
            name: catalogue["size"].quantile(q) for name, q in (("min", 0.0), ("median", 0.5), ("max", 1.0))
        },
        "bytes": size,
        "bytes_per_row": size / rows if rows else 0.0,
        "snapshot": None if snapshot is None else {"number": snapshot.number, "digest": snapshot.digest},
        "teacher": dict(descriptor.teacher),
        "data": dict(descriptor.data),
        "shard": {"format": descriptor.shard_format, "codec": descriptor.codec},
        "grows": descriptor.grows,
        "snapshots": len(numbers),
        "quarantined": sum(1 for file in files.walk(root, root / QUARANTINE) if file.parent.parent.name == "records"),
        "software": _software(root, descriptor, committed),
        "heads": {
            name: head.to_json() | {"fidelity": fidelity.get(name), "warning": _warning(fidelity.get(name))}
            for name, head in descriptor.heads.items()
        },
    }


def _holes(units: int, committed: list[int]) -> list[int]:
    """The first units that are missing."""
    there = set(committed)
    return list(islice((unit for unit in range(units) if unit not in there), HOLES_NAMED))


def _committed(root: Path, committed: list[int]) -> dict[str, str] | None:
    """When the first and the last unit were committed, by the clock of the file system; None where none is."""
    if not committed:
        return None
    # Of many units a few tell; copying a store makes it young again.
    some = committed[:: max(1, len(committed) // 64)] + committed[-1:]
    times = [files.age_and_size(layout.record_path(root, unit))[0] for unit in some]
    # A file may bear any time; years that have no name are shown as the last or the first one.
    first, last = (dt.datetime.fromtimestamp(min(max(when, 0), LATEST), dt.UTC) for when in (min(times), max(times)))
    return {"first": first.isoformat(timespec="seconds"), "last": last.isoformat(timespec="seconds")}


def _warning(fidelity: Mapping[str, Any] | None) -> str | None:
    """What is wrong with poor labels; snapshots of before the error was measured lack it."""
    return None if fidelity is None else Fidelity.from_json({"error": 0.0, **fidelity}).warning


def _software(root: Path, descriptor: Descriptor, committed: list[int]) -> list[str]:
    """What wrote the first and the last unit."""
    ends = {read_record(root, unit, descriptor).software for unit in (committed[:1] + committed[-1:])}
    return sorted(map(str, ends))


def _verify_snapshots(root: Path, descriptor: Descriptor, report: Report) -> dict[int, str]:
    """Check the last snapshot and what is kept with it; digests of the sealed records by unit."""
    numbers = layout.snapshot_numbers(root)
    if not numbers:
        return {}
    number = numbers[-1]
    try:
        snapshot = read_snapshot(root, number)
        if snapshot.descriptor != descriptor.digest:
            report.bad.append(Problem(None, str(layout.snapshot_path(root, number)), "it is of another store"))
        read_prior(root, snapshot)
        read_probe(root, snapshot, descriptor)
        for head in descriptor.heads:
            read_codebook(root, descriptor, head)
        table = read_table(root, snapshot, ["unit", "record"])
    except (StoreCorrupt, StoreNotFound) as error:
        report.bad.append(Problem(None, str(layout.snapshot_path(root, number)), str(error)))
        return {}
    return dict(zip(table["unit"].tolist(), (digest.decode("latin-1") for digest in table["record"]), strict=True))


def _verify_unit(
    root: Path,
    descriptor: Descriptor,
    unit: int,
    sealed: str | None,
    report: Report,
    ledger: Ledger | None,
    *,
    deep: bool,
) -> None:
    try:
        record = read_record(root, unit, descriptor)
    except StoreCorrupt as error:
        report.bad.append(Problem(unit, str(layout.record_path(root, unit)), str(error)))
        return
    report.units += 1
    report.rows += record.rows
    if sealed is not None and record.digest != sealed:
        report.bad.append(Problem(unit, str(layout.record_path(root, unit)), "it is not the record that was sealed"))
    reader = UnitReader(root, descriptor, record)
    if ledger is not None and ledger.knows(record, reader.path, deep=deep):
        report.skipped += 1
        return
    problem = _shard_problem(root, reader.path, record)
    if problem is not None:
        report.bad.append(Problem(unit, str(reader.path), problem))
        return
    try:
        reader.read_extras()
        for number in range(len(record.chunks) if deep else 0):
            reader.read_chunk(number)
    except StoreCorrupt as error:
        report.bad.append(Problem(unit, str(reader.path), str(error)))
        return
    if ledger is not None:
        ledger.add(record, reader.path, deep=deep)


def _shard_problem(root: Path, path: Path, record: Record) -> str | None:
    """What is wrong with a shard's bytes; None for nothing."""
    hasher = blake3()
    try:
        size = files.read_pieces(root, path, hasher.update)
    except FileNotFoundError:
        return "the shard is missing"
    except StorageFailed:
        raise
    except (ValueError, OSError) as error:
        return f"it cannot be read: {error}"
    if size != record.size:
        return f"it has {size:,} bytes where {record.size:,} were committed"
    if hasher.hexdigest() != record.blake3:
        return "its bytes are not what was committed (BLAKE3)"
    return None
