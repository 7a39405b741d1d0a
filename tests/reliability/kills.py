"""Random SIGKILLs over several writers; the ledger is a pipe written to only after a commit has returned."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.reliability import world

PACE = {"zarr": 1, "parquet": 4}
"""How much longer a commit takes."""
BEGUN, COMMITTED = b"b", b"c"


@dataclass
class Kills:
    """Result of an experiment.

    Attributes:
        kills: writers killed.
        units: units committed.
        lost: acknowledged units that were not there afterwards.
        twice: rows that were in a store more than once.
        changed: records whose bytes changed after they were first seen.
        recomputed: rows a killed writer had begun and not committed, by kill.
    """

    kills: int = 0
    units: int = 0
    lost: int = 0
    twice: int = 0
    changed: int = 0
    recomputed: list[int] = field(default_factory=list)


def run(
    kills: int, *, writers: int = 3, units: int = 60, seed: int = 0, progress: Callable[[int], None] = lambda _: None
) -> Kills:
    """Kill at least ``kills`` writers, over as many stores as that takes.

    Raises:
        StoreCorrupt, AssertionError: a committed unit does not hold its only right content.
    """
    rng, result, turn = random.Random(seed), Kills(), 0
    kinds = [(shard_format, labels) for labels in world.LABELS for shard_format in PACE]
    for kind in kinds:
        world.warm_up(*kind)  # what is imported late must not be imported anew in every child
    while result.kills < kills:
        folder = Path(tempfile.mkdtemp(dir=world.TEMPORARY if world.TEMPORARY.is_dir() else None))
        try:
            _one_store(folder / "store", writers, units, kinds[turn % len(kinds)], rng, result)
        finally:
            shutil.rmtree(folder)
        turn += 1
        progress(result.kills)
    return result


def _one_store(root: Path, writers: int, units: int, kind: tuple[str, str], rng: random.Random, result: Kills) -> None:
    store = world.open_store(root, units, *kind)
    acknowledged: set[int] = set()
    seen: dict[int, bytes] = {}
    while len(seen) < units:
        running = [_start(root, units, kind, rng.random()) for _ in range(writers)]
        time.sleep(rng.uniform(0.0005, 0.012) * PACE[kind[0]])
        for pid, _ in running:
            os.kill(pid, signal.SIGKILL)
        for pid, pipe in running:
            os.waitpid(pid, 0)
            with os.fdopen(pipe, "rb") as ledger:
                said = ledger.read()
            begun = {int.from_bytes(said[offset + 1 : offset + 5], "little") for offset in range(0, len(said), 5)}
            done = {int.from_bytes(said[offset + 1 : offset + 5], "little") for offset in range(0, len(said), 5)
                    if said[offset : offset + 1] == COMMITTED}  # fmt: skip
            acknowledged |= done
            result.kills += 1
            result.recomputed.append(world.UNIT_ROWS * len(begun - done))
        now = world.records(root)
        result.lost += len(acknowledged - set(now))
        result.changed += sum(seen[unit] != now.get(unit) for unit in seen)
        world.judge(root, store.descriptor, now.keys() - seen.keys())
        seen = now
    result.units += len(seen)
    rows = np.concatenate([world.content(unit)["key"] for unit in world.judge(root, store.descriptor)])
    result.twice += len(rows) - len(np.unique(rows, axis=0))


def _start(root: Path, units: int, kind: tuple[str, str], luck: float) -> tuple[int, int]:
    """Fork a writer; its process id and the pipe it says its units on."""
    read_end, write_end = os.pipe()
    if pid := os.fork():
        os.close(write_end)
        return pid, read_end
    try:
        store = world.open_store(root, units, *kind)
        missing = list(store.missing())
        start = int(luck * len(missing))
        for unit in missing[start:] + missing[:start]:
            os.write(write_end, BEGUN + unit.to_bytes(4, "little"))
            world.commit(store, unit, extras=unit % 3 == 0)
            os.write(write_end, COMMITTED + unit.to_bytes(4, "little"))
    finally:
        os._exit(0)
