"""Checking a whole store against its digests, setting damaged units aside, and saying what a store holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from softlabels.errors import StorageFailed, StoreCorrupt, StoreNotFound
from softlabels.store.format import paths
from softlabels.store.format.codebooks import read_codebook
from softlabels.store.format.descriptor import Descriptor, open_root
from softlabels.store.format.paths import QUARANTINE
from softlabels.store.format.record import Record, read_record
from softlabels.store.format.snapshot import read_prior, read_probe, read_snapshot, read_table
from softlabels.store.format.tokenizer_file import read_tokenizer
from softlabels.store.maintenance.verification_cache import VerificationCache
from softlabels.store.storage import posix
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
    committed = list(paths.committed_units(root))
    sealed = _verify_snapshots(root, descriptor, report)
    for unit in sorted(set(sealed) - set(committed)):
        report.bad.append(Problem(unit, str(paths.record_path(root, unit)), "the record is missing"))
    ledger = VerificationCache(root) if incremental else None
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
        record = paths.record_path(root, unit)
        # The record first: from then on the unit is a hole, whatever happens to us.
        if record.exists():
            posix.move(root, record, root / QUARANTINE / record.relative_to(root))
        shelf = paths.shard_path(root, unit, "", descriptor.shard_format).parent
        for name in posix.list_names(root, shelf):
            if name.startswith(f"{unit:08d}-"):
                posix.move(root, shelf / name, root / QUARANTINE / shelf.relative_to(root) / name)
    return damaged


def _verify_snapshots(root: Path, descriptor: Descriptor, report: Report) -> dict[int, str]:
    """Check the last snapshot and what is kept with it; digests of the sealed records by unit."""
    numbers = paths.snapshot_numbers(root)
    if not numbers:
        return {}
    number = numbers[-1]
    try:
        snapshot = read_snapshot(root, number)
        if snapshot.descriptor != descriptor.digest:
            report.bad.append(Problem(None, str(paths.snapshot_path(root, number)), "it is of another store"))
        read_prior(root, snapshot)
        read_probe(root, snapshot, descriptor)
        for head in descriptor.heads:
            read_codebook(root, descriptor, head)
        read_tokenizer(root, descriptor)
        table = read_table(root, snapshot, ["unit", "record"])
    except (StoreCorrupt, StoreNotFound) as error:
        report.bad.append(Problem(None, str(paths.snapshot_path(root, number)), str(error)))
        return {}
    return dict(zip(table["unit"].tolist(), (digest.decode("latin-1") for digest in table["record"]), strict=True))


def _verify_unit(
    root: Path,
    descriptor: Descriptor,
    unit: int,
    sealed: str | None,
    report: Report,
    ledger: VerificationCache | None,
    *,
    deep: bool,
) -> None:
    try:
        record = read_record(root, unit, descriptor)
    except StoreCorrupt as error:
        report.bad.append(Problem(unit, str(paths.record_path(root, unit)), str(error)))
        return
    report.units += 1
    report.rows += record.rows
    if sealed is not None and record.digest != sealed:
        report.bad.append(Problem(unit, str(paths.record_path(root, unit)), "it is not the record that was sealed"))
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
        size = posix.read_pieces(root, path, hasher.update)
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
