"""Checking a whole store against its digests, setting damaged units aside, and saying what a store holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from softlabels.errors import StorageFailed, StoreCorrupt, StoreNotFound
from softlabels.store.format import paths
from softlabels.store.format.codebooks import read_codebook
from softlabels.store.format.descriptor import Descriptor, open_with_descriptor
from softlabels.store.format.record import Record, read_record
from softlabels.store.format.snapshot import read_prior, read_probe, read_snapshot, read_table
from softlabels.store.format.tokenizer_file import read_tokenizer
from softlabels.store.maintenance.verification_cache import VerificationCache
from softlabels.store.storage.storage import Location, Storage
from softlabels.store.unit_reader import UnitReader


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
    location: Location,
    *,
    deep: bool = False,
    incremental: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check every file of a store: descriptor, records, shards, extras, snapshots.

    Args:
        location: Location of the store.
        deep: also decode every row and check its values.
        incremental: skip units that were found good on this machine and whose files have not been touched since.
        progress: told the units done and those there are.

    Returns:
        What is wrong; reading goes on behind a damaged file.

    Raises:
        StoreNotFound: no store there.
        StoreCorrupt: the descriptor itself is damaged, so nothing else can be judged.
    """
    storage, descriptor = open_with_descriptor(location)
    report = Report()
    committed = list(paths.committed_units(storage))
    sealed = _verify_snapshots(storage, descriptor, report)
    for unit in sorted(set(sealed) - set(committed)):
        report.bad.append(Problem(unit, storage.locate(paths.record_path(unit)), "the record is missing"))
    ledger = VerificationCache(storage) if incremental else None
    for done, unit in enumerate(committed, 1):
        _verify_unit(storage, descriptor, unit, sealed.get(unit), report, ledger, deep=deep)
        if progress is not None:
            progress(done, len(committed))
    if ledger is not None:
        ledger.save()
    return report


def repair(location: Location, report: Report | None = None) -> list[int]:
    """Move damaged units to ``quarantine/``, so that ``generate`` makes them again; nothing is deleted.

    Args:
        location: Location of the store.
        report: of an earlier ``verify``; by default one is made now.

    Returns:
        The units that are holes now.
    """
    storage, descriptor = open_with_descriptor(location)
    found = verify(storage) if report is None else report
    damaged = sorted({problem.unit for problem in found.bad if problem.unit is not None})
    for unit in damaged:
        # The record first: from then on the unit is a hole, whatever happens to us.
        _set_aside(storage, paths.record_path(unit))
        directory = paths.shard_path(unit, "", descriptor.shard_format).rpartition("/")[0]
        for name in storage.list_names(directory):
            if name.startswith(f"{unit:08d}-"):
                _set_aside(storage, f"{directory}/{name}")
    return damaged


def _set_aside(storage: Storage, name: str) -> None:
    """Move a file to quarantine, beside what was moved there before; does nothing if there is no such file."""
    for attempt in itertools.count():
        try:
            storage.move(name, paths.quarantine_path(name if attempt == 0 else f"{name}.{attempt}"))
        except FileExistsError:
            continue
        except FileNotFoundError:
            return
        return


def _verify_snapshots(storage: Storage, descriptor: Descriptor, report: Report) -> dict[int, str]:
    """Check the last snapshot and what is kept with it; digests of the sealed records by unit."""
    numbers = paths.snapshot_numbers(storage)
    if not numbers:
        return {}
    number = numbers[-1]
    try:
        snapshot = read_snapshot(storage, number)
        if snapshot.descriptor != descriptor.digest:
            report.bad.append(Problem(None, storage.locate(paths.snapshot_path(number)), "it is of another store"))
        read_prior(storage, snapshot)
        read_probe(storage, snapshot, descriptor)
        for head in descriptor.heads:
            read_codebook(storage, descriptor, head)
        read_tokenizer(storage, descriptor)
        table = read_table(storage, snapshot, ["unit", "record"])
    except (StoreCorrupt, StoreNotFound) as error:
        report.bad.append(Problem(None, storage.locate(paths.snapshot_path(number)), str(error)))
        return {}
    return dict(zip(table["unit"].tolist(), (digest.decode("latin-1") for digest in table["record"]), strict=True))


def _verify_unit(
    storage: Storage,
    descriptor: Descriptor,
    unit: int,
    sealed: str | None,
    report: Report,
    ledger: VerificationCache | None,
    *,
    deep: bool,
) -> None:
    try:
        record = read_record(storage, unit, descriptor)
    except StoreCorrupt as error:
        report.bad.append(Problem(unit, storage.locate(paths.record_path(unit)), str(error)))
        return
    report.units += 1
    report.rows += record.rows
    if sealed is not None and record.digest != sealed:
        report.bad.append(
            Problem(unit, storage.locate(paths.record_path(unit)), "it is not the record that was sealed")
        )
    reader = UnitReader(storage, descriptor, record)
    if ledger is not None and ledger.knows(record, reader.name, deep=deep):
        report.skipped += 1
        return
    problem = _shard_problem(storage, reader.name, record)
    if problem is not None:
        report.bad.append(Problem(unit, storage.locate(reader.name), problem))
        return
    try:
        reader.read_extras()
        for number in range(len(record.chunks) if deep else 0):
            reader.read_chunk(number)
    except StoreCorrupt as error:
        report.bad.append(Problem(unit, storage.locate(reader.name), str(error)))
        return
    if ledger is not None:
        ledger.add(record, reader.name, deep=deep)


def _shard_problem(storage: Storage, name: str, record: Record) -> str | None:
    """What is wrong with a shard's bytes; None for nothing."""
    hasher, size = blake3(), 0
    try:
        for data in storage.read_blocks(name):
            hasher.update(data)
            size += len(data)
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
