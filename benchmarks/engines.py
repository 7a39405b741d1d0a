"""Measure what killed actors and a lost node cost a run on Ray: ``python -m benchmarks.engines``.

    python -m benchmarks.engines [--units 200] [--seconds 5] [--kill-every 5] [--json engines.json]

A Ray cluster of three node processes on this machine labels a store twice. Nobody disturbs the first run. In the second
one an actor is killed every few seconds, and halfway a node is removed with all that runs on it. Other nodes have room
for its actors, as a cluster with an autoscaler has. The teacher waits as long for each unit as one on a GPU would
compute, so that two cores show what the engine costs and not what the teacher does.

Prints the wall time of both runs, the restarts, and the rows that were predicted again. Every unit must be committed
once, with the bytes that one process writes. Goal: a disturbed run takes at most 1.3 times as long.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import softlabels as sl
from softlabels.store import verify
from softlabels.store.format.snapshot import read_table

TOP = Path(sl.__file__).parents[1]
UNIT_ROWS = 32
ACTORS = 9
NODES = 3
NODE = {"num_cpus": -(-ACTORS // (NODES - 1)), "object_store_memory": 80 * 2**20}
"""A node has room for its share of the actors when one node is gone."""
TEACHER = f'''
import os, time
from pathlib import Path
import torch

HERE = Path(__file__).parent

def teach(inputs):
    """Ten classes, after the time that a teacher on a GPU would take."""
    if len(inputs) == {UNIT_ROWS}:
        with (HERE / "log" / str(os.getpid())).open("a") as log:
            log.write(f"{{time.time()}}\\n")
        time.sleep(float((HERE / "seconds").read_text()))
    return torch.arange(10.0) + inputs.float()[:, :10]
'''


def start(place: Path, out: str, *options: str) -> subprocess.Popen[str]:
    """Start ``generate`` with an empty log of the processes that run the teacher."""
    (place / "log").mkdir(exist_ok=True)
    for log in (place / "log").iterdir():
        log.unlink()
    command = [
        sys.executable, "-m", "softlabels_cli", "generate", "data.npz", "--teacher", "python:slow:teach", "--out", out,
        "--unit-rows", str(UNIT_ROWS), "--batch-size", str(UNIT_ROWS), "--no-gate", "--json", *options,
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True)


def actors(place: Path) -> list[int]:
    """Return the processes that run the teacher and are alive."""
    return sorted(int(log.name) for log in (place / "log").iterdir() if _is_alive(log.name))


def _is_alive(pid: str) -> bool:
    try:
        return bool(Path("/proc", pid, "cmdline").read_bytes())  # empty once it has died
    except OSError:
        return False


def committed(store: Path) -> int:
    """Return the number of units that are committed."""
    return sum(1 for _ in store.glob("records/*/*.json"))


def kill_one(place: Path, every: float, deaths: list[float]) -> Iterator[None]:
    """Kill an actor whenever so many seconds have passed and add the time to ``deaths``; yields in between."""
    chance, last = random.Random(0), time.monotonic()
    while True:
        if time.monotonic() - last >= every and (alive := actors(place)):
            last = time.monotonic()
            os.kill(chance.choice(alive), signal.SIGKILL)
            deaths.append(time.time())
        yield


def content(store: Path) -> dict[str, list[Any]]:
    """Return the hashes of the units, which the random names of attempts do not change."""
    opened = sl.open(store)
    table = read_table(opened.storage, opened.snapshot, ["unit", "rows", "blake3", "keys"])
    return {name: column.tolist() for name, column in table.items()}


def measure(place: Path, units: int, *, every: float | None) -> dict[str, Any]:
    """Label a store on a new cluster; disturb the run if ``every`` is a number of seconds."""
    from ray.cluster_utils import Cluster

    out = "calm" if every is None else "disturbed"
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(**NODE) for _ in range(NODES)]
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        driver = start(place, out, "--engine", "ray", "--processes", str(ACTORS))
        while not actors(place) and driver.poll() is None:
            time.sleep(0.05)
        began, deaths = time.monotonic(), []  # type: float, list[float]
        killing = kill_one(place, math.inf if every is None else every, deaths)
        while driver.poll() is None:
            next(killing)
            if every is not None and len(nodes) == NODES and committed(place / out) >= units // 2:
                before = actors(place)
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                deaths += [time.time()] * (len(before) - len(actors(place)))
            time.sleep(0.05)
        seconds = time.monotonic() - began
        output = driver.communicate()[0]
        if driver.returncode:
            raise SystemExit(f"generate ended with {driver.returncode}: {output}")
        labelled = [[float(line) for line in log.read_text().split()] for log in (place / "log").iterdir()]
        # The n-th process that began after the first ones replaces about the n-th that died.
        born = sorted(times[0] for times in labelled)[ACTORS:]
        restarts = [birth - death for birth, death in zip(born, deaths, strict=False)]
        rows = UNIT_ROWS * sum(map(len, labelled))
        result = json.loads(output)
        return {
            "run": out,
            "seconds": seconds,
            "deaths": len(deaths),
            "restart_seconds": statistics.median(restarts) if restarts else 0.0,
            "rows_again": rows - units * UNIT_ROWS,
            "load": os.getloadavg()[1],
        } | {name: result[name] for name in ("rows", "new_units", "missing_units")}
    finally:
        cluster.shutdown()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="time of the teacher for a unit")
    parser.add_argument("--kill-every", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  15 by default: anything else on this machine goes first
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (TOP, TOP / "cli", place)))
        (place / "slow.py").write_text(TEACHER)
        (place / "seconds").write_text(str(arguments.seconds))
        rows = arguments.units * UNIT_ROWS
        np.savez(place / "data.npz", x=np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32))
        runs = []
        for every in (None, arguments.kill_every):
            run = measure(place, arguments.units, every=every)
            print(
                f"{run['run']:>9}: {run['seconds']:6.1f} s; {run['deaths']} actors died, their successors labelled "
                f"{run['restart_seconds']:.0f} s later, {run['rows_again']:,} of {rows:,} rows were predicted again; "
                f"load of the machine {run['load']:.1f}",
                flush=True,
            )
            runs.append(run)
        (place / "seconds").write_text("0")
        start(place, "alone").wait()
        expected = content(place / "alone")
        for run in runs:
            run["equal"] = content(place / run["run"]) == expected and verify(place / run["run"], deep=True).ok
            print(f"{run['run']:>9}: every unit once, as one process writes it: {run['equal']}")
    ratio = runs[1]["seconds"] / runs[0]["seconds"]
    print(f"disturbed over undisturbed: {ratio:.2f} (goal 1.3)")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"runs": runs, "ratio": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
