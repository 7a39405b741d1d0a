"""Students of text from stored labels, from the live teacher and from true tokens alone; and the time of a step.

    python benchmarks/language_students.py [--seeds 3] [--epochs 1] [--encoding threshold:0.05] [--step-time]

All students have one architecture and see the same rows in the same order for each seed: that of the chunks of the
store. Stored labels and the live teacher differ in the encoding alone, so their ratio, seed by seed, is what the
encoding costs. Perplexity is that of held-out rows. ``--step-time`` compares optimiser steps of one network of 16,384
classes on stored labels and on true tokens, in turns; the median of their CPU times counts. ``--json FILE`` writes the
figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import softlabels as sl
from softlabels import models
from softlabels.generation import generate
from softlabels.loading import Loader
from softlabels.models import Model, OutputHead
from softlabels.sources import as_source, map_arrays
from softlabels.sources.store_tokens import StoreTokens
from softlabels.text.options import TextOptions
from softlabels.training import train_student, train_teacher
from softlabels.training.language import STATES
from softlabels.training.tasks import Term
from softlabels.training.tasks.loss_spec import LossSpec
from softlabels.training.tasks.tokens import hard_token_term, mixed_token_term

TEACHER, STUDENT = "gpt:layers=3,width=128", "gpt:layers=2,width=64"
ENCODING = "threshold:0.05"
PACK = 128
CORPUS_BYTES = 800_000
RECIPE = {"batch_size": 8, "lr": 3e-3, "warmup": 0.2}
"""With a shorter warm-up seeds differ by more than encodings."""
CLASSES = 16_384
STEP_NETWORK = "gpt:layers=4,width=256"
TIMED_STEPS = 9
TIMED_BYTES = 60_000
"""Bytes of text that the timed steps read: about a hundred rows of 256 tokens."""


def write_corpus(path: Path, size: int = CORPUS_BYTES) -> None:
    """Write the first modules of the standard library, by name, up to about a number of bytes."""
    library = Path(sysconfig.get_paths()["stdlib"])
    with path.open("w", encoding="utf-8") as file:
        for module in sorted(library.glob("*.py")):
            if file.tell() < size:
                file.write(module.read_text(encoding="utf-8", errors="replace"))


def quality(folder: Path, encoding: str, seeds: int, epochs: float, teacher_steps: int) -> dict[str, Any]:
    """Train all students and return their held-out figures."""
    write_corpus(folder / "corpus.txt")
    source = as_source(folder / "corpus.txt", text=TextOptions(tokenizer="bpe:2048", pack=PACK))
    teacher = train_teacher(source, TEACHER, folder / "teacher", steps=teacher_steps, **RECIPE)
    result = generate(source, teacher=teacher, out=folder / "labels", encoding=encoding)
    store = sl.open(folder / "labels")
    tokens = StoreTokens(store)
    arms = {
        "stored labels": lambda out, seed: train_student(store, None, STUDENT, out, epochs=epochs, seed=seed, **RECIPE),
        "live teacher": lambda out, seed: train_student(
            teacher, tokens, STUDENT, out, epochs=epochs, seed=seed, **RECIPE
        ),
        "true tokens": lambda out, seed: train_teacher(tokens, STUDENT, out, epochs=epochs, seed=seed, **RECIPE),
    }
    metrics = teacher.run.metrics if teacher.run is not None else None
    figures: dict[str, Any] = {
        "teacher": None if metrics is None else metrics.perplexity,
        "bytes_per_token": result.bytes_per_row / (PACK - 1),
    }
    for name, train in arms.items():
        runs = []
        for seed in range(seeds):
            began = time.process_time()
            metrics = train(folder / f"{name}-{seed}".replace(" ", "-"), seed).run.metrics
            runs.append(metrics.perplexity)
            print(
                f"{name}, seed {seed}: {metrics.perplexity:.2f} ({time.process_time() - began:.0f} s CPU)", flush=True
            )
        figures[name] = runs
    return figures


def step_time(folder: Path) -> dict[str, float]:
    """Return the median CPU seconds of a step on stored labels and on true tokens."""
    write_corpus(folder / "corpus.txt", TIMED_BYTES)
    source = as_source(folder / "corpus.txt", text=TextOptions(tokenizer="bpe:2048", pack=256))
    heads = {"logits": OutputHead(classes=CLASSES, kind="tokens", shape=(None,))}
    teacher = models.build("gpt:layers=1,width=64", input_shape=(), heads=heads)
    with torch.no_grad():
        teacher.module.embedding.weight.mul_(8)  # a likely token and many rare ones, as trained teachers have
    generate(source, teacher=teacher, out=folder / "wide", encoding=ENCODING, gate=False)
    store = sl.open(folder / "wide")
    student = models.build(STEP_NETWORK, input_shape=(), heads=heads)
    loader = Loader(store, inputs=StoreTokens(store), batch_size=4, seed=0)
    kl = LossSpec.parse("kl").losses[0]
    terms = {
        # What train-student minimises: 0.9 * kl + 0.1 * cross_entropy.
        "stored labels": mixed_token_term(
            student, "logits", kl, lambda batch: batch.targets["logits"], temperature=1.0, alpha=0.9
        ),
        "true tokens": hard_token_term(student),
    }
    times = _timed(student, loader, terms)
    entries = store.read(np.arange(4)).values.shape[-1]
    return {name: statistics.median(values) for name, values in times.items()} | {"most_entries": entries}


def _timed(student: Model, loader: Loader, terms: dict[str, Term]) -> dict[str, list[float]]:
    """Return the CPU seconds of steps with each loss, in turns; each reads a batch of its own."""
    module: Any = student.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    batches = loader.stream(0)
    times: dict[str, list[float]] = {name: [] for name in terms}
    for turn in range(TIMED_STEPS + 1):
        for name, term in terms.items():
            began = time.process_time()
            batch = next(batches)
            inputs = map_arrays(batch.inputs, torch.as_tensor)
            loss = term.loss({STATES: module.states(inputs)}, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if turn:
                times[name].append(time.process_time() - began)
    batches.close()
    return times


def _mean(values: list[float], digits: int = 2) -> str:
    """Return the mean of several runs with their standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1.0, help="passes of the students over the text")
    parser.add_argument("--encoding", default=ENCODING)
    parser.add_argument("--teacher-steps", type=int, default=300)
    parser.add_argument("--step-time", action="store_true", help="measure the time of a step alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.step_time:
            figures: dict[str, Any] = dict(step_time(folder))
            ratio = figures["stored labels"] / figures["true tokens"]
            print(f"a step of {CLASSES:,} classes: stored labels {figures['stored labels'] * 1e3:.0f} ms, true tokens "
                  f"{figures['true tokens'] * 1e3:.0f} ms, ratio {ratio:.3f}; {figures['most_entries']} entries a token"
                  )  # fmt: skip
        else:
            figures = quality(folder, options.encoding, options.seeds, options.epochs, options.teacher_steps)
            print(f"teacher {figures['teacher']:.2f}; {options.encoding}, {figures['bytes_per_token']:.1f} B per token")
            for arm in ("stored labels", "live teacher", "true tokens"):
                ratios = [run / live for run, live in zip(figures[arm], figures["live teacher"], strict=True)]
                print(f"{arm:14} perplexity {_mean(figures[arm])}, over the live teacher's {_mean(ratios, digits=4)}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
