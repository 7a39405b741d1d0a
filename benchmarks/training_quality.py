"""Quality of students from stored labels, from the live teacher, and from hard labels alone, over several seeds.

    python benchmarks/training_quality.py digits [--seeds 3] [--json quality.json]
    python benchmarks/training_quality.py language --text tinyshakespeare.txt [--encoding topk:32:f16]
    python benchmarks/training_quality.py driving

Each task is the recipe of its name in recipes/, so teacher, student and options are those of the README's commands. All
students of a seed see the same rows in the same order. The arms differ in their labels: stored ones, the live teacher,
all hard labels, a tenth of the hard labels, and a tenth of the hard labels with all stored ones. Figures are measured
on held-out rows; mean and standard deviation over seeds. CPU seconds are those of training a student.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import softlabels as sl
from softlabels.models import Model
from softlabels.sources import Source, as_source
from softlabels.sources.store_tokens import StoreTokens
from softlabels.text.options import TextOptions
from softlabels.training import language_figures
from softlabels.training.quality import evaluate
from softlabels.training.splits import split_rows

RECIPES = Path(__file__).parents[1] / "recipes"
TENTH = 10
ROLES = ("data", "store", "model", "student", "tokenizer", "documents", "pack", "hard_labels", "alpha", "eval_every")
"""Keys of a recipe that are not passed on: arms decide them."""

Arm = Callable[[Path, int], Model]
Figures = dict[str, float]


class TenthOfText(StoreTokens):
    """The tokens of a store, of whose training rows a tenth is left."""

    def __init__(self, store: sl.Store) -> None:
        super().__init__(store)
        self._train, self._test = split_rows(StoreTokens(store))

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return ("train", "test")

    def split(self, name: str | None) -> NDArray[np.int64]:
        """Return the rows of a split."""
        return self._test if name == "test" else self._train[::TENTH]


def classes_and_numbers(task: str, folder: Path) -> tuple[dict[str, Arm], Callable[[Model], Figures]]:
    """Return the arms of a task with hard labels beside the inputs, and the measure."""
    recipes = tomllib.loads((RECIPES / f"{task}.toml").read_text())
    taught, learned = recipes["train-teacher"], recipes["train-student"]
    source = as_source(taught["data"])
    train, held_out = split_rows(source)
    options = {name: value for name, value in learned.items() if name not in ROLES}
    alpha, network, tenth = learned.get("alpha", 0.9), learned["student"], len(train) // TENTH
    teacher = sl.train_teacher(source, taught["model"], folder / "teacher", **_recipe(taught))
    sl.generate(source, teacher=teacher, out=folder / "labels", temperatures=(1.0, options.get("temperature", 1.0)))
    hard = {name: value for name, value in options.items() if name not in {"loss", "temperature"}}
    hard |= {name: value for name, value in taught.items() if name == "loss"}
    store = folder / "labels"
    arms: dict[str, Arm] = {
        "stored": lambda out, seed: sl.train_student(store, source, network, out, seed=seed, alpha=alpha, **options),
        "live": lambda out, seed: sl.train_student(teacher, source, network, out, seed=seed, alpha=alpha, **options),
        "hard": lambda out, seed: sl.train_teacher(source, network, out, seed=seed, **hard),
        "a tenth of hard": lambda out, seed: sl.train_teacher(
            source, network, out, seed=seed, hard_labels=tenth, **hard
        ),
        "stored, a tenth of hard": lambda out, seed: sl.train_student(
            store, source, network, out, seed=seed, alpha=alpha, hard_labels=tenth, **options
        ),
        "teacher": lambda *_: teacher,
    }
    return arms, lambda model: _quality(model, source, held_out)


def _quality(model: Model, source: Source, rows: NDArray[np.int64]) -> Figures:
    (heads,) = evaluate([model], [source], rows)
    return {f"{name} {quality.metric}": quality.value for name, quality in heads.items()}


def text(path: Path, folder: Path, encoding: str | None = None) -> tuple[dict[str, Arm], Callable[[Model], Figures]]:
    """Return the arms of the language recipe, and the measure."""
    recipes = tomllib.loads((RECIPES / "language.toml").read_text())
    taught, learned = recipes["train-teacher"], recipes["train-student"]
    layout = TextOptions(tokenizer=taught["tokenizer"], documents=taught["documents"], pack=taught["pack"])
    source = as_source(path, text=layout)
    teacher = sl.train_teacher(source, taught["model"], folder / "teacher", **_recipe(taught))
    sl.generate(source, teacher=teacher, out=folder / "labels", encoding=encoding)
    store = sl.open(folder / "labels")
    tokens = StoreTokens(store)
    _, held_out = split_rows(tokens)
    options, network = _recipe(learned), learned["student"]
    hard = {name: value for name, value in options.items() if name != "loss"}

    def student(labels: Any, source: Source | None) -> Arm:
        return lambda out, seed: sl.train_student(
            labels, source, network, out, seed=seed, alpha=learned["alpha"], **options
        )

    arms: dict[str, Arm] = {
        "stored": student(store, None),
        "live": student(teacher, tokens),
        "hard": lambda out, seed: sl.train_teacher(tokens, network, out, seed=seed, **hard),
        "a tenth of hard": lambda out, seed: sl.train_teacher(TenthOfText(store), network, out, seed=seed, **hard),
        "teacher": lambda *_: teacher,
    }

    def measure(model: Model) -> Figures:
        figures = language_figures.measure_text(model, tokens, held_out, store)
        return {"perplexity": float(np.exp(figures.loss)), "kl": figures.kl or 0.0}

    return arms, measure


def _recipe(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in ROLES}


def main() -> None:
    """Train all students and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["digits", "language", "driving"])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--encoding", help="encoding of the labels of text; by default that of the recipe's store")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.task == "language" and options.text is None:
        parser.error("language: needs a text, got no --text; expected a file")
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arms, measure = (
            text(options.text, folder, options.encoding)
            if options.task == "language"
            else classes_and_numbers(options.task, folder)
        )
        for arm, train in arms.items():
            runs, seconds = [], []
            for seed in range(1 if arm == "teacher" else options.seeds):
                began = time.process_time()
                model = train(folder / f"{arm}-{seed}".replace(" ", "-"), seed)
                seconds.append(time.process_time() - began)
                runs.append(measure(model))
            results[arm] = {"runs": runs, "cpu_seconds": seconds}
            print(f"{arm}: {_summary(runs)}; {statistics.mean(seconds):.0f} s of CPU", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def _summary(runs: list[Figures]) -> str:
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    return ", ".join(
        f"{name} {statistics.mean(values):.4g} ± {statistics.stdev(values) if len(values) > 1 else 0:.2g}"
        for name, values in columns.items()
    )


if __name__ == "__main__":
    main()
