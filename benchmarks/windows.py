"""Distance of a loader's shuffle from a full one, by window size: in the composition of batches, and in a student.

    python benchmarks/windows.py [--seeds 8] [--json windows.json]

The store is sorted by class, the worst that is common. Two parts:

1. What batches hold, from the order alone. 1,048,576 rows of 1,000 classes in 256 chunks. For every batch of B rows and
   every class the squared difference between its count and B p, summed, over the sum of the variances that a full
   shuffle gives (hypergeometric: B p (1 - p) (N - B) / (N - 1)). A full shuffle has 1 in the mean, exactly; one is
   measured beside. What a window of w of C chunks of R rows must give is derived: two rows of a batch are of one chunk
   with probability q = (R - 1) / (w R - 1); rows of one chunk share their class with probability a, of two chunks with
   b, and with s = sum p^2 the expected sum is B (1 - s) + B (B - 1) (q a + (1 - q) b - s). This is Kish's design effect
   of samples in clusters, 1 + (B - 1) rho (L. Kish, Survey Sampling, 1965, 5.4). Printed beside the measured figure.
2. A student. 16 versions (shifted by a pixel, with noise) of each of the 1,347 training digits, sorted by class, in 64
   chunks of 337 rows; teacher and student are those of ``softlabels demo``, batches of 32, soft labels alone, one pass
   and four. Seeds are paired with a full shuffle of the same initial weights; the difference is given with its standard
   error. Accuracy and KL to the teacher on the 450 test digits.

About eleven minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import softlabels as sl
from softlabels import losses, models
from softlabels.labels import SoftLabels
from softlabels.loading import Order
from softlabels.models import Model
from softlabels.sources import Source, open_source
from softlabels.training.recipe import Recipe

CHUNKS, CHUNK_ROWS, CLASSES = 256, 4096, 1000
WINDOWS = (1, 4, 16, 64, 128, 256)
BATCHES = (64, 256, 1024)

VERSIONS, STORE_CHUNKS, BATCH = 16, 64, 32
STUDENT_WINDOWS = (1, 2, 4, 8, 16, 32, 64)
PASSES = (1, 4)
TEACHER, STUDENT = "cnn:width=64,depth=3", "mlp:width=64,depth=1"
TEMPERATURE = 4.0
FULL = "full shuffle"

Figures = dict[str, Any]


def composition(rows: np.ndarray, batch: int) -> float:
    """Squared deviations of class counts over those of a full shuffle; rows are sorted by class, (N,) in order."""
    total = len(rows)
    classes = rows * CLASSES // total
    share = np.bincount(classes, minlength=CLASSES) / total
    batches = total // batch
    owner = np.repeat(np.arange(batches), batch)
    counts = np.zeros((batches, CLASSES), np.int32)
    np.add.at(counts, (owner, classes[: batches * batch]), 1)
    measured = float(((counts - batch * share) ** 2).sum()) / batches
    return measured / float((batch * share * (1 - share)).sum() * (total - batch) / (total - 1))


def design_effect(window: int, batch: int) -> float:
    """Return the expectation of ``composition`` for batches that do not cross windows; see above."""
    total = CHUNKS * CHUNK_ROWS
    counts = np.zeros((CHUNKS, CLASSES), np.int64)
    rows = np.arange(total)
    np.add.at(counts, (rows // CHUNK_ROWS, rows * CLASSES // total), 1)
    pairs = float((counts * (counts - 1)).sum())
    all_pairs = float((counts.sum(axis=0) * (counts.sum(axis=0) - 1)).sum())
    one_chunk = pairs / (total * (CHUNK_ROWS - 1))
    two_chunks = (all_pairs - pairs) / (total * (total - CHUNK_ROWS))
    same = (CHUNK_ROWS - 1) / (window * CHUNK_ROWS - 1)
    alike = float(((counts.sum(axis=0) / total) ** 2).sum())
    measured = 1 - alike + (batch - 1) * (same * one_chunk + (1 - same) * two_chunks - alike)
    return measured / ((1 - alike) * (total - batch) / (total - 1))


def classes_of_windows(order: Order) -> float:
    """Share of all classes that a window has rows of, mean over the windows of an epoch."""
    shares = []
    for window in order.windows(0):
        items, _ = order.arrange(window)
        shares.append(len(np.unique(items * CLASSES // len(order))) / CLASSES)
    return statistics.mean(shares)


def of_batches(seeds: int) -> list[Figures]:
    """Part 1: one row a window, the full shuffle last."""
    measured = []
    for window in tqdm([*WINDOWS, FULL], desc="orders"):
        row: Figures = {"window": window, "classes": 1.0}
        ratios: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        for seed in range(seeds):
            if isinstance(window, int):
                order = Order(np.full(CHUNKS, CHUNK_ROWS), seed=seed, window=window)
                rows = order.epoch(0)
                if seed == 0:
                    row["classes"] = classes_of_windows(order)
            else:
                rows = np.random.default_rng(seed).permutation(CHUNKS * CHUNK_ROWS)
            for batch in BATCHES:
                ratios[batch].append(composition(rows, batch))
        for batch, values in ratios.items():
            row[str(batch)] = {
                "mean": statistics.mean(values),
                "std": statistics.stdev(values),
                "expected": design_effect(window, batch) if isinstance(window, int) else 1.0,
            }
        measured.append(row)
    return measured


def show_batches(rows: list[Figures]) -> None:
    """The table of part 1."""
    print("\n| window | " + " | ".join(f"batches of {batch:,}" for batch in BATCHES) + " | classes in a window |")
    print("|---|" + "---:|" * (len(BATCHES) + 1))
    for row in rows:
        window = f"{row['window']} of {CHUNKS} chunks" if isinstance(row["window"], int) else FULL
        cells = []
        for batch in BATCHES:
            one = row[str(batch)]
            cells.append(f"{one['mean']:.3f} ± {one['std']:.3f} ({one['expected']:.3f})")
        print(f"| {window} | " + " | ".join(cells) + f" | {row['classes']:.1%} |")


def sorted_digits(folder: Path) -> Source:
    """Versions of the training digits, sorted by class and image."""
    digits = open_source("digits")
    train = digits.split("train")
    hard = digits.labels(train)
    if hard is None:
        raise ValueError("the digits have lost their labels")
    train = train[np.argsort(hard, kind="stable")]
    images = digits.inputs(train)
    rng = np.random.default_rng(0)
    versions = np.empty((len(images), VERSIONS, *images.shape[1:]), np.uint8)
    for number in range(VERSIONS):
        shift = rng.integers(-1, 2, (len(images), 2))
        for index, (down, right) in enumerate(shift):
            versions[index, number] = np.roll(images[index], (down, right), (-2, -1))
    noise = rng.integers(-1, 2, versions.shape)
    noisy = np.clip(versions.astype(np.int64) + noise, 0, 16).astype(np.uint8)
    np.savez(folder / "sorted.npz", image=noisy.reshape(-1, *images.shape[1:]))
    return open_source(folder / "sorted.npz")


def shuffled(source: Source, labels: SoftLabels, seed: int) -> Iterator[tuple[np.ndarray, SoftLabels]]:
    """Epochs without end in an order that knows no chunks."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(source))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            yield source.inputs(rows), labels.take(rows)


def windowed(store: str, source: Source, seed: int, window: int) -> Iterator[tuple[np.ndarray, SoftLabels]]:
    """Epochs without end from the loader."""
    loader = sl.loader(sl.open(store), inputs=source, batch_size=BATCH, seed=seed, window=window)
    for batch in loader.stream():
        yield batch.inputs, batch.targets["logits"]


def student(source: Source, batches: Iterator[tuple[np.ndarray, SoftLabels]], passes: int, seed: int) -> Model:
    """One student, by the recipe of ``train-student``."""
    model = models.build(
        STUDENT,
        input_shape=source.input_shape,
        heads={"logits": models.OutputHead(classes=10)},
        seed=seed,
        statistics=models.InputStatistics(np.array(4.9), np.array(6.0)),
    )
    recipe = Recipe(batch_size=BATCH)
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = passes * -(-len(source) // BATCH)
    model.module.train()
    for step in range(steps):
        inputs, labels = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step, steps)
        loss = losses.distillation(
            model.module(models.as_tensor(inputs)), labels, None, temperature=TEMPERATURE, alpha=1.0
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.module.parameters(), recipe.clip)
        optimizer.step()
    model.module.eval()
    return model


def judge(model: Model, teacher: Model) -> Figures:
    """Accuracy, and KL to the teacher at T = 1 in nats, on the test digits."""
    digits = open_source("digits")
    test = digits.split("test")
    inputs, hard = digits.inputs(test), digits.labels(test)
    log_q = model.predict(inputs)["logits"].double().log_softmax(-1)
    log_p = teacher.predict(inputs)["logits"].double().log_softmax(-1)
    right = log_q.argmax(-1).numpy() == hard
    return {"accuracy": float(right.mean()), "kl": float((log_p.exp() * (log_p - log_q)).sum(-1).mean())}


def of_students(seeds: int) -> list[Figures]:
    """Part 2: one row a number of passes and window, the full shuffle last."""
    torch.set_num_threads(1)
    runs: dict[tuple[int, int | str], list[Figures]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teacher = sl.train_teacher(open_source("digits"), TEACHER, folder / "teacher", epochs=30)
        source = sorted_digits(folder)
        root = str(folder / "labels")
        rows = -(-len(source) // STORE_CHUNKS)
        sl.generate(source, teacher=teacher, out=root, encoding="topk:4:q8", temperatures=(1.0, 4.0), unit_rows=rows)
        store = sl.open(root)
        if store.chunks != STORE_CHUNKS:
            raise ValueError(f"the store has {store.chunks} chunks")
        labels = store.read(np.arange(store.rows))
        todo = [(passes, window, seed) for passes in PASSES for window in (*STUDENT_WINDOWS, FULL)
                for seed in range(seeds)]  # fmt: skip
        for passes, window, seed in tqdm(todo, desc="students"):
            if isinstance(window, int):
                batches = windowed(root, source, seed, window)
            else:
                batches = shuffled(source, labels, seed)
            model = student(source, batches, passes, seed)
            batches.close()  # type: ignore[attr-defined]  # both are generators
            runs.setdefault((passes, window), []).append(judge(model, teacher))
    return [{"passes": passes, "window": window, "runs": measured} for (passes, window), measured in runs.items()]


def difference(row: Figures, full: Figures, key: str) -> tuple[float, float]:
    """Mean difference to the full shuffle over paired seeds, and its standard error."""
    pairs = [run[key] - other[key] for run, other in zip(row["runs"], full["runs"], strict=True)]
    return statistics.mean(pairs), statistics.stdev(pairs) / len(pairs) ** 0.5


def show_students(rows: list[Figures]) -> None:
    """The table of part 2."""
    print("\n| passes | window | accuracy | against a full shuffle | KL to the teacher | against a full shuffle |")
    print("|---:|---|---:|---:|---:|---:|")
    for row in rows:
        full = next(other for other in rows if other["passes"] == row["passes"] and other["window"] == FULL)
        window = f"{row['window']} of {STORE_CHUNKS} chunks" if isinstance(row["window"], int) else FULL
        cells = []
        for key, scale, form, unit in (("accuracy", 100, ".2f", " %"), ("kl", 1, ".4f", "")):
            values = [scale * run[key] for run in row["runs"]]
            cells.append(f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}}{unit}")
            mean, error = difference(row, full, key)
            cells.append("-" if row is full else f"{scale * mean:+{form}} ± {scale * error:{form}}")
        print(f"| {row['passes']} | {window} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="orders and students of each kind; at least two")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    figures = {"batches": of_batches(arguments.seeds)}
    show_batches(figures["batches"])
    figures["students"] = of_students(arguments.seeds)
    show_students(figures["students"])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
