"""Measure training: steps from stored labels, the start of a run, and checkpoints.

    python benchmarks/training.py [--steps 24] [--repeats 5] [--json training.json]

Steps from stored labels are compared with the same steps from hard labels, and with online distillation from a live
teacher whose forward pass costs ten times the student's. Students have sizes that people train: a convolutional network
of 15 million operations per image for 10 classes, one of 55 million, half of MobileNetV3-small, for 1,000 and 50,000
classes, and a language model of four layers of width 256 for 50,000 tokens. Beside a network of two layers any loss is
a large share of a step. The runs take turns, and figures are medians of ratios over the repeats, of CPU time and of
wall time: on a busy machine only the first means something. A step is measured from the first report of a run to its
last. Five minutes on two idle cores.
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
from softlabels.loading import Loader
from softlabels.models.cost import measure_cost
from softlabels.sources import Source, as_source, map_arrays
from softlabels.sources.store_tokens import StoreTokens
from softlabels.text.options import TextOptions
from softlabels.training.checkpoint import write_checkpoint
from softlabels.training.language import STATES
from softlabels.training.optimization import MixedPrecision, new_optimizer
from softlabels.training.recipe import Recipe
from softlabels.training.state import TrainingState
from softlabels.training.stopping import EarlyStopping
from softlabels.training.tasks.loss_spec import LossSpec
from softlabels.training.tasks.tokens import hard_token_term, soft_token_term
from softlabels.training.trainer import CHECKPOINT_SECONDS

Pairs = list[tuple[tuple[float, float], tuple[float, float]]]

ROWS, SIDE, WIDTH = 1024, 64, 64
BATCH = 32
STUDENTS = {
    10: "cnn:width=32,depth=3,stem=4",
    1_000: "cnn:width=64,depth=3,stem=4",
    50_000: "cnn:width=64,depth=3,stem=4",
}
"""Student by number of classes."""
TOKENS, SEQUENCES, LENGTH = 50_000, 4, 128
LANGUAGE_STUDENT = "gpt:layers=4,width=256"
ONLINE_STUDENT, ONLINE_TEACHER = "cnn:width=64,depth=3,stem=4", "cnn:width=224,depth=3,stem=4"


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
    """Return coloured noise with hard labels; two in a hundred rows are held out."""
    rng = np.random.default_rng(classes)
    columns = {
        "x": (rng.integers(0, 128, (ROWS, 1, 1, 3)) + rng.integers(0, 128, (ROWS, SIDE, SIDE, 3))).astype(np.uint8),
        # Names, since most of 50,000 numbers would not occur among the rows.
        "label": [str(number) for number in rng.integers(0, classes, ROWS)],
        "split": np.where(np.arange(ROWS) % 50, "train", "test"),
    }
    return as_source(columns).with_class_names([str(number) for number in range(classes)])


def sharpened(teacher: models.Model) -> models.Model:
    """Return an untrained teacher whose predictions differ between rows, as those of a trained one."""
    with torch.no_grad():
        for parameter in list(teacher.module.parameters())[-2:]:
            parameter.mul_(100)
    return teacher


def timed(train: Callable[..., Any], folder: Path, steps: int) -> tuple[float, float]:
    """Return seconds of CPU and wall time per step of a run."""
    clock = Clock()
    options = {"steps": steps, "batch_size": BATCH, "log_every": steps // 2, "checkpoint_seconds": 1e6, "seed": 1}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        train(out=f"{out}/run", progress=clock, **options)
    return clock.per_step()


def ratios(runs: dict[str, Callable[..., Any]], folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return the median of the ratios of the first run to the second, which take turns."""
    (first, one), (second, other) = runs.items()
    pairs = [(timed(one, folder, steps), timed(other, folder, steps)) for _ in range(repeats)]
    return _ratios_of(f"{first} / {second}", pairs)


def _ratios_of(name: str, pairs: Pairs, steps: int = 1) -> dict[str, Any]:
    """Return the median of ratios of (CPU, wall) seconds that ``steps`` steps took."""
    cpu = [a[0] / b[0] for a, b in pairs]
    return {
        "runs": name,
        "cpu": round(statistics.median(cpu), 3),
        "lowest": round(min(cpu), 3),
        "highest": round(max(cpu), 3),
        "wall": round(statistics.median(a[1] / b[1] for a, b in pairs), 3),
        "ms": round(1e3 * statistics.median(a[0] for a, _ in pairs) / steps, 2),
    }


def stored_over_hard(classes: int, folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return the time of a step from stored labels over that of a step from hard labels."""
    source, student = data_of(classes), STUDENTS[classes]
    head = {"logits": models.OutputHead(classes=classes)}
    teacher = sharpened(models.build("cnn:width=8,depth=1,stem=8", input_shape=(SIDE, SIDE, 3), heads=head))
    store = folder / f"labels-{classes}"
    encoding = "dense:f16" if classes <= 64 else "topk:32"
    sl.generate(source, teacher=teacher, out=store, encoding=encoding, gate=False)
    runs: dict[str, Callable[..., Any]] = {
        "stored": lambda **o: sl.train_student(store, source, student, alpha=1.0, **o),
        "hard": lambda **o: sl.train_teacher(source, student, **o),
    }
    shape = {"student": student, "classes": classes, "encoding": encoding}
    return shape | ratios(runs, folder, steps, repeats)


def stored_over_true_tokens(folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return the time of a step from stored labels of 50,000 tokens over that of a step from the tokens of the text."""
    text = folder / "text.txt"
    text.write_text(Path(statistics.__file__).read_text("utf-8"))
    source = as_source(text, text=TextOptions(tokenizer="bpe:512", pack=LENGTH))
    heads = {"logits": models.OutputHead(classes=TOKENS, kind="tokens", shape=(None,))}
    teacher = models.build("gpt:layers=1,width=64", input_shape=(), heads=heads)
    sl.generate(source, teacher=teacher, out=folder / "tokens", encoding="topk:32", gate=False)
    store = sl.open(folder / "tokens")
    tokens = StoreTokens(store)
    model: Any = models.build(LANGUAGE_STUDENT, input_shape=(), heads=heads)
    optimizer = new_optimizer(Recipe(), list(model.module.parameters()))
    kl = LossSpec.parse("kl").losses[0]
    terms = {
        "stored": soft_token_term(model, "logits", kl, lambda batch: batch.targets["logits"], temperature=1.0),
        "hard": hard_token_term(model),
    }
    batches = {
        name: Loader(labels, inputs=tokens, batch_size=SEQUENCES, seed=0).stream()
        for name, labels in (("stored", store), ("hard", None))
    }

    def train(name: str, **_: Any) -> tuple[float, float]:
        began = time.process_time(), time.perf_counter()
        for _ in range(max(1, steps // 4)):
            batch = next(batches[name])
            loss = terms[name].loss({STATES: model.module.states(map_arrays(batch.inputs, torch.as_tensor))}, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.process_time() - began[0], time.perf_counter() - began[1]

    for name in terms:
        train(name)
    pairs = [(train("stored"), train("hard")) for _ in range(repeats)]
    shape = {"student": LANGUAGE_STUDENT, "tokens": TOKENS, "encoding": "topk:32"}
    return shape | _ratios_of("stored / hard", pairs, max(1, steps // 4))


def stored_over_online(folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return the time of a step from stored labels over that of a step with a live teacher of ten times the cost."""
    source, head = data_of(1_000), {"logits": models.OutputHead(classes=1_000)}
    teacher, student = (
        models.build(spec, input_shape=(SIDE, SIDE, 3), heads=head) for spec in (ONLINE_TEACHER, ONLINE_STUDENT)
    )
    batch = source.inputs(np.arange(BATCH))
    both = sharpened(teacher), student
    flops = [measure_cost(model, batch[:1], repeats=1).flops or 0 for model in both]
    forward = [min(_seconds(model, batch) for _ in range(5)) for model in both]
    sl.generate(source, teacher=teacher, out=folder / "online", gate=False)
    runs: dict[str, Callable[..., Any]] = {
        "stored": lambda **o: sl.train_student(folder / "online", source, ONLINE_STUDENT, alpha=1.0, **o),
        "online": lambda **o: sl.train_student(teacher, source, ONLINE_STUDENT, alpha=1.0, **o),
    }
    measured = ratios(runs, folder, steps, repeats)
    return {
        "student": ONLINE_STUDENT,
        "teacher": ONLINE_TEACHER,
        "operations": round(flops[0] / flops[1], 2),
        "forward": round(forward[0] / forward[1], 2),
        # A step costs three forward passes, one forward and two backward; labels are free.
        "bound": round(3 / (3 + forward[0] / forward[1]), 3),
        **measured,
    }


def _seconds(model: models.Model, batch: Any) -> float:
    """Return seconds of CPU of a forward pass."""
    began = time.process_time()
    model.predict(batch)
    return time.process_time() - began


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
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"load": os.getloadavg()[0], "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results["stored over hard labels"] = [
            stored_over_hard(classes, folder, arguments.steps, arguments.repeats) for classes in STUDENTS
        ]
        results["stored over true tokens"] = stored_over_true_tokens(folder, arguments.steps, arguments.repeats)
        results["stored over online"] = stored_over_online(folder, arguments.steps, arguments.repeats)
        results["start"] = start(folder, min(3, arguments.repeats))
        results["checkpoint"] = checkpoints(folder, arguments.repeats)
    print(json.dumps(results, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
