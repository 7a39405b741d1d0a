"""Repair beside writers: units are damaged while writers commit and repairs run, and processes are killed.

A unit that was set aside although its bytes are right is a violation; so is a committed unit whose files are gone, and
a store that does not become complete and sealed again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

import softlabels as sl
from softlabels.errors import StoreBusy, StoreCorrupt
from softlabels.store import repair, verify
from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.record import Record, parse_record
from tests.reliability import world


@dataclass
class Repairs:
    """Counts of an experiment.

    Attributes:
        damaged: Files that were damaged.
        moved: Records that repair set aside.
        kills: Processes that were killed.
        wrong: Units that were set aside although their bytes were right.
        lost: Committed units whose files were gone although nothing had damaged them.
        unsound: Stores that did not become complete and sealed again.
    """

    damaged: int = 0
    moved: int = 0
    kills: int = 0
    wrong: int = 0
    lost: int = 0
    unsound: int = 0

    @property
    def violations(self) -> int:
        """Units and stores that are not as they must be."""
        return self.wrong + self.lost + self.unsound


def run(stores: int, *, units: int = 12, seed: int = 0, progress: Callable[[int], None] = lambda _: None) -> Repairs:
    """Damage and repair so many stores while they are written."""
    rng, result = random.Random(seed), Repairs()
    forms = ("zarr", "parquet")
    for shard_format in forms:
        world.warm_up(shard_format)
    for index in range(stores):
        folder = Path(tempfile.mkdtemp(dir=world.TEMPORARY if world.TEMPORARY.is_dir() else None))
        try:
            _one_store(folder / "store", units, forms[index % 2], rng, result)
        finally:
            shutil.rmtree(folder)
        progress(index + 1)
    return result


def _one_store(root: Path, units: int, shard_format: str, rng: random.Random, result: Repairs) -> None:
    store = world.open_store(root, units, shard_format)
    jobs = [_write, _write, _repair, _repair]
    running = [_fork(job, root, units, shard_format) for job in jobs]
    damaged: set[Path] = set()
    try:
        for _ in range(20):
            time.sleep(rng.uniform(0.002, 0.02))
            damaged |= _damage(root, rng, store.descriptor)
            if rng.random() < 0.3:
                victim = rng.randrange(len(jobs))
                os.kill(running[victim], signal.SIGKILL)
                os.waitpid(running[victim], 0)
                running[victim] = _fork(jobs[victim], root, units, shard_format)
                result.kills += 1
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    result.damaged += len(damaged)
    _count_quarantined(root, store.descriptor, result)
    for unit in paths.committed_units(store.storage):
        with suppress(ValueError):
            record = parse_record((root / paths.record_path(unit)).read_bytes(), unit, store.descriptor)
            shard = root / paths.shard_path(unit, record.attempt, shard_format)
            result.lost += not shard.exists()
    repair(root)
    _fill(root, units, shard_format)
    sl.seal(root)
    result.unsound += not verify(root, deep=True).ok
    world.judge(root, store.descriptor)


def _damage(root: Path, rng: random.Random, descriptor: Descriptor) -> set[Path]:
    """Flip a bit in the record, shard or extras of a committed unit; returns the file if there was one."""
    records = sorted((root / paths.RECORDS / "00").glob("*.json"))
    if not records:
        return set()
    path = rng.choice(records)
    with suppress(ValueError, FileNotFoundError):
        record = parse_record(path.read_bytes(), int(path.stem), descriptor)
        shard = root / paths.shard_path(record.unit, record.attempt, descriptor.shard_format)
        path = rng.choice([path, shard, root / paths.extras_path(record.unit, record.attempt)])
        with path.open("r+b") as file:
            data = bytearray(file.read())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            file.seek(0)
            file.write(data)
        return {path}
    return set()


def _count_quarantined(root: Path, descriptor: Descriptor, result: Repairs) -> None:
    for path in (root / paths.QUARANTINE / paths.RECORDS).rglob("*.json*"):
        result.moved += 1
        with suppress(ValueError):
            record = parse_record(path.read_bytes(), int(path.name[:8]), descriptor)
            result.wrong += _is_right(root, record, descriptor)


def _is_right(root: Path, record: Record, descriptor: Descriptor) -> bool:
    """Return True if the files that a record names are right, wherever they are now."""
    shard = paths.shard_path(record.unit, record.attempt, descriptor.shard_format)
    expected = {shard: record.blake3}
    if record.extras is not None:
        expected[paths.extras_path(record.unit, record.attempt)] = record.extras[1]
    for name, digest in expected.items():
        path = next((path for path in (root / name, root / paths.QUARANTINE / name) if path.exists()), None)
        if path is None or blake3(path.read_bytes()).hexdigest() != digest:
            return False
    return True


def _write(root: Path, units: int, shard_format: str) -> None:
    while True:
        _fill(root, units, shard_format)
        time.sleep(0.001)


def _fill(root: Path, units: int, shard_format: str) -> None:
    store = world.open_store(root, units, shard_format)
    for unit in list(store.missing()):
        world.commit(store, unit, extras=True)


def _repair(root: Path, _units: int, _shard_format: str) -> None:
    report = None
    while True:
        with suppress(StoreBusy, StoreCorrupt):
            repair(root, report)
            # An old report is used again: it may name units that were made anew.
            report = verify(root) if report is None else None


def _fork(job: Callable[[Path, int, str], None], root: Path, units: int, shard_format: str) -> int:
    if pid := os.fork():
        return pid
    try:
        job(root, units, shard_format)
    finally:
        os._exit(0)
