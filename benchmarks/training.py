"""Measure training: steps from stored labels, the start of a run, and checkpoints.

    python benchmarks/training.py [--steps 60] [--repeats 5] [--json training.json]

Steps from stored labels are compared with the same steps from hard labels, for 10 to 50,000 classes, and with online
distillation from a live teacher of ten times the student's parameters. The runs take turns, and figures are medians of
ratios over the repeats, of CPU time and of wall time: on a busy machine only the first means something. A step is
measured from the first report of a run to its last. Three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import softlabels as sl
from softlabels import models
from softlabels.sources import Source, as_source
from softlabels.training.checkpoint import write_checkpoint
from softlabels.training.optimization import MixedPrecision, new_optimizer
from softlabels.training.recipe import Recipe
from softlabels.training.state import TrainingState
from softlabels.training.stopping import EarlyStopping
from softlabels.training.trainer import CHECKPOINT_SECONDS

ROWS, WIDTH = 4096, 64
STUDENT = "mlp:width=128,depth=2"
BATCH = 128
CLASSES = (10, 1_000, 50_000)


class Clock:
    """Progress that records CPU and wall time at the first and the last report of a run."""

    def __init__(self) -> None:
        self.times: list[tuple[int, float, float]] = []

    def __call__(self, done: int, total: int, **figures: float) -> None:
        """Record a report."""
        if done:
            self.times.append((done, time.process_time(), time.perf_counter()))

    def per_step(self) -> tuple[float, float]:
        """Return seconds of CPU and wall time per step."""
        (first, cpu, wall), (last, cpu_end, wall_end) = self.times[0], self.times[-1]
        return (cpu_end - cpu) / (last - first), (wall_end - wall) / (last - first)


def data_of(classes: int) -> Source:
    """Return random inputs with hard labels; two in a hundred rows are held out."""
    rng = np.random.default_rng(classes)
    columns = {
        "x": rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
        # Names, since most of 50,000 numbers would not occur among the rows.
        "label": [str(number) for number in rng.integers(0, classes, ROWS)],
        "split": np.where(np.arange(ROWS) % 50, "train", "test"),
    }
    return as_source(columns).with_class_names([str(number) for number in range(classes)])


def timed(train: Callable[..., Any], folder: Path, steps: int) -> tuple[float, float]:
    """Return seconds of CPU and wall time per step of a run."""
    clock = Clock()
    options = {"steps": steps, "batch_size": BATCH, "log_every": steps // 4, "checkpoint_seconds": 1e6, "seed": 1}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        train(out=f"{out}/run", progress=clock, **options)
    return clock.per_step()


def ratios(runs: dict[str, Callable[..., Any]], folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return the median of the ratios of the first run to the second, which take turns."""
    (first, one), (second, other) = runs.items()
    pairs = [(timed(one, folder, steps), timed(other, folder, steps)) for _ in range(repeats)]
    cpu = [a[0] / b[0] for a, b in pairs]
    return {
        "runs": f"{first} / {second}",
        "cpu": round(statistics.median(cpu), 3),
        "lowest": round(min(cpu), 3),
        "highest": round(max(cpu), 3),
        "wall": round(statistics.median(a[1] / b[1] for a, b in pairs), 3),
        "ms": round(1e3 * statistics.median(a[0] for a, _ in pairs), 2),
    }


def stored_over_hard(classes: int, folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return the time of a step from stored labels over that of a step from hard labels."""
    source = data_of(classes)
    teacher = models.build("mlp:width=64", input_shape=(WIDTH,), heads={"logits": models.OutputHead(classes=classes)})
    store = folder / f"labels-{classes}"
    sl.generate(source, teacher=teacher, out=store, encoding="dense:f16" if classes <= 64 else "topk:32")
    runs: dict[str, Callable[..., Any]] = {
        "stored": lambda **o: sl.train_student(store, source, STUDENT, alpha=1.0, **o),
        "hard": lambda **o: sl.train_teacher(source, STUDENT, **o),
    }
    return {"classes": classes, **ratios(runs, folder, steps, repeats)}


def stored_over_online(folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return the time of a step from stored labels over that of a step with a live teacher of ten times the size."""
    source, head = data_of(1_000), {"logits": models.OutputHead(classes=1_000)}
    teacher = models.build("mlp:width=768,depth=2", input_shape=(WIDTH,), heads=head)
    student = models.build(STUDENT, input_shape=(WIDTH,), heads=head)
    sizes = [sum(p.numel() for p in model.module.parameters()) for model in (teacher, student)]
    sl.generate(source, teacher=teacher, out=folder / "online")
    runs: dict[str, Callable[..., Any]] = {
        "stored": lambda **o: sl.train_student(folder / "online", source, STUDENT, alpha=1.0, **o),
        "online": lambda **o: sl.train_student(teacher, source, STUDENT, alpha=1.0, **o),
    }
    return {"teacher": f"{sizes[0] / sizes[1]:.1f} times the student", **ratios(runs, folder, steps, repeats)}


def start(folder: Path, repeats: int) -> dict[str, float]:
    """Return seconds of a process from its start to its end after one step, and of the call in a warm process."""
    command = [
        sys.executable,
        "-m",
        "softlabels_cli",
        "train-teacher",
        "digits",
        "--model",
        "mlp:width=16",
        "--steps",
        "1",
    ]
    cold, cpu, warm = [], [], []
    for index in range(repeats):
        began, before = time.perf_counter(), os.times()
        subprocess.run([*command, "--out", str(folder / f"cold-{index}"), "-q"], check=True, capture_output=True)
        after = os.times()
        cold.append(time.perf_counter() - began)
        cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
        began = time.perf_counter()
        sl.train_teacher("digits", "mlp:width=16", folder / f"warm-{index}", steps=1)
        warm.append(time.perf_counter() - began)
    return {
        "process": round(statistics.median(cold), 2),
        "process, CPU": round(statistics.median(cpu), 2),
        "call": round(statistics.median(warm), 2),
    }


def checkpoints(folder: Path, repeats: int) -> dict[str, float]:
    """Return the seconds of a checkpoint of ten million parameters, and their share of the default interval."""
    head = {"logits": models.OutputHead(classes=1_000)}
    module = models.build("mlp:width=2600,depth=2", input_shape=(WIDTH,), heads=head).module
    recipe = Recipe()
    optimizer = new_optimizer(recipe, list(module.parameters()))
    module(torch.ones(2, WIDTH)).sum().backward()
    optimizer.step()
    precision = MixedPrecision(recipe, torch.device("cpu"))
    state = TrainingState(module, optimizer, precision, None, EarlyStopping(None), step=1)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        write_checkpoint(folder, state, identity="0" * 64)
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    return {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "seconds": round(seconds, 3),
        # The interval grows with the cost, to at least a hundred times as long.
        "share": round(seconds / max(CHECKPOINT_SECONDS, 100 * seconds), 4),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"load": os.getloadavg()[0], "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results["stored over hard labels"] = [
            stored_over_hard(classes, folder, arguments.steps, arguments.repeats) for classes in CLASSES
        ]
        results["stored over online"] = stored_over_online(folder, arguments.steps, arguments.repeats)
        results["start"] = start(folder, min(3, arguments.repeats))
        results["checkpoint"] = checkpoints(folder, arguments.repeats)
    print(json.dumps(results, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
