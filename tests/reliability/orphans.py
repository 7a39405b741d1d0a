"""Orphans: a process that is killed leaves no process behind, whichever library started it.

Processes inherit an environment variable with a random value, by which they are found.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 60.0
"""Seconds that the processes of a killed parent have to end."""
FEWEST = 3
"""Processes that a parent has before it is killed: itself, and what it started."""
MARKER = "SOFTLABELS_TEST_MARKER"

PROGRAM = """
import sys, time
import numpy as np
import softlabels as sl
from torch.utils.data import DataLoader
from softlabels.loading import Loader
from softlabels.loading.adapters.torch_datasets import LabelDataset, LabelStream, collate

def teacher(inputs):
    time.sleep(0.02)
    return 2 * inputs[:, :3]

if __name__ == "__main__":
    kind, folder = sys.argv[1:]
    # Rows for half a minute, so that every kill comes before the end.
    data = {"x": np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)}
    options = {"num_workers": 2, "multiprocessing_context": "forkserver", "collate_fn": collate}
    if kind == "generate":
        print("started", flush=True)
        sl.generate(data, teacher=teacher, out=folder + "/many", unit_rows=16, batch_size=8, processes=2)
    sl.generate(data, teacher=lambda inputs: 2 * inputs[:, :3], out=folder + "/labels")
    store = sl.open(folder + "/labels")
    batches = iter({
        "loader": lambda: Loader(store, batch_size=4, workers=2).stream(),
        "dataset": lambda: DataLoader(LabelDataset(store), batch_size=4, **options),
        "stream": lambda: DataLoader(LabelStream(Loader(store, batch_size=4)), batch_size=None, **options),
    }[kind]())
    print("started", flush=True)
    while True:
        next(batches)
        time.sleep(0.01)
"""

KINDS = ("loader", "dataset", "stream", "generate")


@dataclass
class Orphans:
    """Counts of an experiment.

    Attributes:
        kills: Parents that were killed.
        processes: Processes that they had.
        survivors: Processes that were still there a minute later.
    """

    kills: int = 0
    processes: int = 0
    survivors: int = 0


def run(
    kills: int,
    *,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Orphans:
    """Kill so many parents at random moments."""
    rng, result = random.Random(seed), Orphans()
    for index in range(kills):
        with tempfile.TemporaryDirectory() as folder:
            _kill_one(kinds[index % len(kinds)], Path(folder), rng, result)
        progress(index + 1)
    return result


def processes_with(marker: str) -> list[int]:
    """Return the processes that have a value in their environment."""
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "environ").read_bytes():
                pids.append(int(entry.name))
        except OSError:  # it ended meanwhile
            continue
    return pids


def _kill_one(kind: str, folder: Path, rng: random.Random, result: Orphans) -> None:
    marker = uuid.uuid4().hex
    (folder / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, folder / "program.py", kind, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {MARKER: marker, "OMP_NUM_THREADS": "1"},
    )
    if process.stdout is None or process.stdout.readline() != b"started\n":
        raise RuntimeError(f"the program did not start: {kind}")
    until = time.monotonic() + PATIENCE
    while len(processes_with(marker)) < FEWEST and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 2))
    result.processes += len(processes_with(marker))
    process.kill()
    process.wait()
    process.stdout.close()
    result.kills += 1
    until = time.monotonic() + PATIENCE
    while (remaining := processes_with(marker)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in remaining:
        os.kill(pid, signal.SIGKILL)
    result.survivors += len(remaining)
