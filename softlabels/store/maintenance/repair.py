"""Repair of a store: damaged files move to ``quarantine/``, so that ``generate`` and ``seal`` can make them again.

Nothing is deleted. A unit is judged again right before it moves, under a lock that one repair holds at a time. A unit
whose bytes are right therefore stays where it is, whatever an older report says. Only the files that a damaged record
names move: another shard of the unit may belong to a writer that is about to commit it.
"""

from __future__ import annotations

import itertools
from contextlib import closing

from softlabels.errors import StoreCorrupt, StoreNotFound
from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.descriptor_file import open_with_descriptor
from softlabels.store.format.snapshot import read_snapshot
from softlabels.store.maintenance.report import ADVICE, Report
from softlabels.store.maintenance.verify import descriptor_problem, is_taken, read_derived, unit_problem, verify
from softlabels.store.storage.storage import Location, Storage


def repair(location: Location, report: Report | None = None) -> list[int]:
    """Move damaged units, and damaged files of the last snapshot, to ``quarantine/``.

    Afterwards ``generate`` makes the units again, and ``seal`` the files of the snapshot.

    Args:
        location: Location of the store.
        report: Report of an earlier ``verify``; None to verify every row now.

    Returns:
        The units that were moved.

    Raises:
        StoreCorrupt: The descriptor is not the one that was sealed; nothing was moved.
        StoreBusy: Another process repairs the store.

    Example:
        >>> repair("labels")  # doctest: +SKIP
        [17]
    """
    storage, descriptor = open_with_descriptor(location)
    if (problem := descriptor_problem(storage, descriptor)) is not None:
        advice = ADVICE["descriptor"].format(store=storage)
        raise StoreCorrupt(f"{problem.path}: {problem.problem}; nothing was moved. {advice}")
    report = verify(storage, deep=True) if report is None else report
    suspects = sorted({problem.unit for problem in report.bad if problem.unit is not None and problem.fix == "repair"})
    with closing(storage.lock("repair")):
        _move_snapshot(storage, descriptor)
        return [unit for unit in suspects if _move_unit(storage, descriptor, unit)]


def _move_unit(storage: Storage, descriptor: Descriptor, unit: int) -> bool:
    """Move the files of a unit if they are damaged now; returns True if they were."""
    if not is_taken(storage, paths.record_path(unit)):
        return False
    record, problem = unit_problem(storage, descriptor, unit, deep=True)
    if problem is None:
        return False
    # The record first: from then on the unit is missing, whatever happens to this process.
    _move(storage, paths.record_path(unit))
    if record is not None:
        _move(storage, paths.shard_path(unit, record.attempt, descriptor.shard_format))
        _move(storage, paths.extras_path(unit, record.attempt))
    return True


def _move_snapshot(storage: Storage, descriptor: Descriptor) -> None:
    """Move the last snapshot if it is damaged or of another store, and those of its files that are damaged."""
    for number in reversed(paths.snapshot_numbers(storage)):
        try:
            snapshot = read_snapshot(storage, number)
            if snapshot.descriptor == descriptor.digest:
                break
        except (StoreCorrupt, StoreNotFound):
            pass
        _move(storage, paths.snapshot_path(number))
    else:
        return
    _, errors = read_derived(storage, descriptor, snapshot)
    for name in errors:
        _move(storage, name)


def _move(storage: Storage, name: str) -> None:
    """Move a file to quarantine under a name that nothing has there; does nothing if there is no such file."""
    for attempt in itertools.count():
        try:
            storage.move(name, paths.quarantine_path(name if attempt == 0 else f"{name}.{attempt}"))
        except FileExistsError:
            continue
        except FileNotFoundError:
            return
        return
