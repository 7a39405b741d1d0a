"""Verification of a store: every file against its digest, completeness, and the snapshot.

A store is whole if nothing is damaged, no unit is missing, and the last snapshot names exactly the committed units.
Whatever reading refuses, verification names: the sealed state is opened as a reader opens it, and ``deep`` reads every
chunk as a reader does (tests/store/test_agreement.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import StorageFailed, StoreCorrupt, StoreError, StoreNotFound
from softlabels.store.format import paths
from softlabels.store.format.codebooks import read_codebook
from softlabels.store.format.copying import is_unfinished_copy
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.descriptor_file import open_with_descriptor
from softlabels.store.format.identity import named_descriptors
from softlabels.store.format.record import Record, read_record
from softlabels.store.format.snapshot import Snapshot, read_probe, read_snapshot, read_table
from softlabels.store.format.tokenizer_file import read_tokenizer
from softlabels.store.maintenance.report import Fix, Problem, Report
from softlabels.store.maintenance.verification_cache import VerificationCache
from softlabels.store.read_ahead import map_ahead
from softlabels.store.sealed_store import Store
from softlabels.store.storage.read_errors import without_advice
from softlabels.store.storage.storage import Location, Storage
from softlabels.store.store_opening import check_digest
from softlabels.store.unit_reader import UnitReader

Progress = Callable[[int, int], None]


def verify(
    location: Location,
    *,
    deep: bool = False,
    incremental: bool = False,
    digest: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check every file of a store, its completeness and its snapshot.

    Args:
        location: Location of the store.
        deep: If True, also decode every row and check its values.
        incremental: If True, skip units that were good on this machine and whose files have not changed since.
        digest: Digest that the last snapshot must have; None: any.
        progress: Function that is called with the numbers of units done and of all committed units.

    Returns:
        A report; verification continues behind a damaged file.

    Raises:
        StoreNotFound: There is no store.
        StoreCorrupt: The descriptor is damaged, so nothing else can be judged, or the digest is another one.
        StorageFailed: The storage refused.

    Example:
        >>> verify("labels").verdict  # doctest: +SKIP
        'complete and sealed'
    """
    check_digest(location, digest)
    storage, descriptor = open_with_descriptor(location)
    committed = _committed_units(storage)
    problems: list[Problem] = []
    rows = skipped = 0
    records = None
    if (problem := descriptor_problem(storage, descriptor)) is not None:
        problems.append(problem)
    else:
        problems += _store_problems(storage, descriptor)
        records = _sealed_records(storage, descriptor, problems)
        problems += _missing_records(storage, committed, 0 if records is None else len(records))
        cache = VerificationCache(storage) if incremental else None
        check = partial(_verify_unit, storage, descriptor, records, cache, deep=deep)
        results = map_ahead(storage.read_threads, check, committed)
        for done, (unit_rows, was_skipped, unit_problems) in enumerate(results, 1):
            rows, skipped = rows + unit_rows, skipped + was_skipped
            problems += unit_problems
            if progress is not None:
                progress(done, len(committed))
        if cache is not None:
            cache.save()
    units = (max(committed, default=-1) + 1) if descriptor.grows else descriptor.units
    if records is not None:
        units = max(units, len(records))
    existing = sum(unit < units for unit in committed)
    is_sealed = records is not None and len(records) == existing
    return Report(
        store=str(storage),
        units=len(committed),
        rows=rows,
        skipped=skipped,
        missing_units=units - existing,
        sealed=is_sealed and not any(problem.fix == "seal" for problem in problems),
        bad=tuple(problems),
    )


def _committed_units(storage: Storage) -> list[int]:
    """Return the committed units; from a storage that lists no files, those of the last good snapshot."""
    if storage.lists:
        return list(paths.committed_units(storage))
    numbers = paths.snapshot_numbers(storage)
    try:
        return list(range(read_snapshot(storage, numbers[-1]).units)) if numbers else []
    except StoreError:
        return []


def descriptor_problem(storage: Storage, descriptor: Descriptor) -> Problem | None:
    """Return the problem of a descriptor that is not the one that records and the snapshot name; None if it is.

    Where records name the descriptor and the snapshot another one, the snapshot is at fault.
    """
    by_snapshot, by_records = named_descriptors(storage)
    named = by_records or by_snapshot
    if not named or descriptor.digest in named:
        return None
    return Problem(
        None,
        storage.locate(paths.DESCRIPTOR),
        "it is not the descriptor that the records and the snapshot of this store name",
        "descriptor",
    )


def unit_problem(
    storage: Storage, descriptor: Descriptor, unit: int, *, deep: bool
) -> tuple[Record | None, Problem | None]:
    """Return the record of a unit, None if it is damaged, and the problem of its files, None if they are right.

    Args:
        storage: Storage of the store.
        descriptor: Descriptor of the store.
        unit: A committed unit.
        deep: If True, decode every row and check its values.
    """
    try:
        record = read_record(storage, unit, descriptor)
    except StoreCorrupt as error:
        return None, _unreadable(unit, storage.locate(paths.record_path(unit)), error, "repair")
    return record, _files_problem(storage, descriptor, record, deep=deep)


def _files_problem(storage: Storage, descriptor: Descriptor, record: Record, *, deep: bool) -> Problem | None:
    """Return the problem of the shard and the extras of a unit; None if they are right."""
    reader = UnitReader(storage, descriptor, record)
    problem = _shard_problem(storage, reader.name, record)
    if problem is None:
        try:
            reader.read_extras()
            for number in range(len(record.chunks) if deep else 0):
                reader.read_chunk(number)
        except StoreCorrupt as error:
            problem = without_advice(error, storage.locate(reader.name))
    return None if problem is None else Problem(record.unit, storage.locate(reader.name), problem, "repair")


def _verify_unit(
    storage: Storage,
    descriptor: Descriptor,
    sealed: NDArray[np.bytes_] | None,
    cache: VerificationCache | None,
    unit: int,
    *,
    deep: bool,
) -> tuple[int, bool, list[Problem]]:
    """Return the rows of a unit, True if it was skipped, and its problems."""
    name = storage.locate(paths.record_path(unit))
    try:
        record = read_record(storage, unit, descriptor)
    except StoreCorrupt as error:
        return 0, False, [_unreadable(unit, name, error, "repair")]
    problems = []
    if sealed is not None and unit < len(sealed) and record.digest != sealed[unit].decode("latin-1"):
        problems.append(Problem(unit, name, "it is not the record that was sealed", "seal"))
    if cache is not None and cache.has(record, descriptor, deep=deep):
        return record.rows, True, problems
    problem = _files_problem(storage, descriptor, record, deep=deep)
    if problem is not None:
        problems.append(problem)
    elif cache is not None:
        cache.add(record, descriptor, deep=deep)
    return record.rows, False, problems


def _missing_records(storage: Storage, committed: list[int], sealed: int) -> list[Problem]:
    """Return a problem for each run of units that were sealed and have no record; a snapshot may claim very many."""
    problems = []
    for before, unit in pairwise([-1, *(unit for unit in committed if unit < sealed), sealed]):
        if unit - before > 1:
            name = storage.locate(paths.record_path(before + 1))
            units = "record is" if unit - before == 2 else f"records of units {before + 1} to {unit - 1} are"
            problems.append(Problem(before + 1, name, f"the {units} missing", "generate"))
    return problems


def _store_problems(storage: Storage, descriptor: Descriptor) -> list[Problem]:
    """Return the problems of the whole store: codebooks and tokenizer, which only their origin has; a partial copy."""
    problems = []
    for head, kind in descriptor.heads.items():
        try:
            read_codebook(storage, descriptor, head)
        except StoreError as error:
            name = paths.codebook_path(str(kind.codebook))
            problems.append(_unreadable(None, storage.locate(name), error, "fetch"))
    try:
        read_tokenizer(storage, descriptor)
    except StoreError as error:
        problems.append(_unreadable(None, str(storage), error, "fetch"))
    if descriptor.grows and is_unfinished_copy(storage):
        problems.append(Problem(None, str(storage), "it is a copy that was interrupted", "copy"))
    return problems


def _sealed_records(storage: Storage, descriptor: Descriptor, problems: list[Problem]) -> NDArray[np.bytes_] | None:
    """Return the digests of the records that the last snapshot names; None without one, or if it is damaged."""
    numbers, lost = paths.snapshots(storage)
    if lost is not None:
        name = storage.locate(paths.snapshot_path(lost))
        problems.append(
            Problem(None, name, "the last snapshot is missing: lost, or its sealing was interrupted", "seal")
        )
    if not numbers:
        return None
    try:
        snapshot = read_snapshot(storage, numbers[-1])
    except (StoreCorrupt, StoreNotFound) as error:
        problems.append(_unreadable(None, storage.locate(paths.snapshot_path(numbers[-1])), error, "repair"))
        return None
    if snapshot.descriptor != descriptor.digest:
        name = storage.locate(paths.snapshot_path(numbers[-1]))
        problems.append(Problem(None, name, "it is of another store", "repair"))
        return None
    table, errors = read_derived(storage, descriptor, snapshot)
    if errors:
        for name, refusal in errors.items():
            fix: Fix = "repair" if is_taken(storage, name) else "seal"
            problems.append(_unreadable(None, storage.locate(name), refusal, fix))
        return None
    try:
        Store(storage, descriptor, snapshot, table).skipped()
        if (table["unit"] != np.arange(snapshot.units)).any():
            raise StoreCorrupt("its table does not list the units in order")
    except StoreCorrupt as error:
        problems.append(_unreadable(None, storage.locate(paths.snapshot_path(numbers[-1])), error, "repair"))
        return None
    return table["record"]


def read_derived(
    storage: Storage, descriptor: Descriptor, snapshot: Snapshot
) -> tuple[dict[str, NDArray[Any]], dict[str, StoreCorrupt]]:
    """Return the table of units of a snapshot, and the error of the first of its files that is damaged, by name.

    Sealing can make each of these files again.
    """
    table: dict[str, NDArray[Any]] = {}
    name = paths.table_path(snapshot.number, snapshot.table)
    try:
        table = read_table(storage, snapshot, ["unit", "rows", "record"])
        name = paths.probe_path(snapshot.number, str(snapshot.probe))
        read_probe(storage, snapshot, descriptor)
        name = paths.prior_path(snapshot.number, str(snapshot.prior))
        Store(storage, descriptor, snapshot, table).load_priors()
    except StoreCorrupt as error:
        return table, {name: error}
    return table, {}


def is_taken(storage: Storage, name: str) -> bool:
    """Return True if a name is taken by anything, such as a FIFO."""
    directory, _, file = name.rpartition("/")
    return file in storage.list_names(directory)


def _unreadable(unit: int | None, path: str, error: StoreError, fix: Fix) -> Problem:
    """Return the problem of a file that readers refuse."""
    return Problem(unit, path, without_advice(error, path), fix)


def _shard_problem(storage: Storage, name: str, record: Record) -> str | None:
    """Return the problem of a shard's bytes; None if they are right."""
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
