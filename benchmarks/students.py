"""Train students of one size from one teacher, through the labels of each encoding and through the live teacher.

    python benchmarks/students.py [--sequences 480] [--seeds 5] [--explain] [--json FILE] [--plot docs/students.svg]

The teacher is the GPT of benchmarks/language_model.py with three layers of width 128 and 2,048 tokens. Students have
two layers of width 64 behind a causal convolution and learn from the same sequences of 256 tokens, by the KL at T = 1
alone. The students of a seed start from the same weights and see the same batches in the same order, so they are
compared pair by pair. Labels are written by sl.create and read by sl.loader. Bytes per token are those of real stores,
keys included; those of RS-KD are 24 bits for each class drawn (arXiv 2503.16870).

Figures are on held-out text: loss on the true tokens, KL to the teacher, agreement, and calibration error (15 bins of
the top probability). ``--explain`` trains the students of section 9 of docs/fidelity.md that take the second moment of
Adam from another gradient, the mean of labels over draws, or rows scaled to sum to 1. Each run is stored in
cache/students as it ends, and an interrupted benchmark resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import language_model
import numpy as np
import torch
from language_model import CONTEXT, GPT, Shape
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import softlabels as sl
from softlabels import encodings, losses
from softlabels.encodings.counts import Counts, excess_over
from softlabels.labels import DenseLabels, SoftLabels, SparseLabels

CACHE = language_model.ROOT / "cache" / "students"
TEACHER = Shape(layers=3, width=128, vocabulary=2048)
STUDENT = Shape(layers=2, width=64, vocabulary=2048)
BATCH, TEACHER_BATCH = 4, 8
"""Sequences per step."""
PEAK_LR = 3e-3
WARM_UP = 0.2
"""Share of the steps: with a shorter one seeds differ by more than encodings."""
VALIDATION = 64
BINS = 15
T_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % quantile of Student's t distribution by number of seeds."""


@dataclass(frozen=True)
class Student:
    """A way to learn.

    Attributes:
        name: Name in the table.
        spec: Encoding of the store; None: the live teacher, or true tokens.
        entry_bits: Bits of each listed class, in place of the bytes of the store; None: those of the store.
        second_moment: Labels whose gradient, at the same weights, gives the second moment of Adam.
        normalised: Scale the weights of each row to sum to 1.
        mean_of: Encoding ``counts`` whose labels are replaced by their mean over draws; None: not.
    """

    name: str
    spec: str | None = None
    entry_bits: int | None = None
    second_moment: Literal["own", "threshold"] = "own"
    normalised: bool = False
    mean_of: str | None = None


LIVE, HARD = "live teacher (full KD)", "true tokens alone"
THRESHOLD = "threshold:0.05"
TAPS = 4
"""Tokens that the student's convolution sees."""
STUDENTS = (
    Student(LIVE),
    Student(HARD),
    Student("counts:18", "counts:18"),
    Student("threshold", THRESHOLD),
    Student("adaptive, 64 codewords", "adaptive:0.009:d4:64"),
    Student("RS-KD, 7 draws", "sampled:7", entry_bits=24),
    Student("RS-KD, 15 draws", "sampled:15", entry_bits=24),
    Student("counts:10", "counts:10"),
    Student("counts:30", "counts:30"),
    Student("counts:50", "counts:50"),
    Student("counts:30:0, unbiased", "counts:30:0"),
    Student("counts:8:0, unbiased", "counts:8:0"),
)
EXPLANATIONS = (
    Student("full KD, second moment of threshold", second_moment="threshold"),
    Student("mean of counts:18", mean_of="counts:18"),
    Student("threshold, rows scaled to sum to 1", THRESHOLD, normalised=True),
)


def main() -> None:
    """Train all students and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=3, help="passes over the sequences and their labels")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="of the teacher's training")
    parser.add_argument("--only", nargs="*", help="names of students to train")
    parser.add_argument("--explain", action="store_true", help="also train the students that explain the gap")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    teacher = language_model.train(options.steps, 0, TEACHER, TEACHER_BATCH)
    train, held_out = language_model.token_files(TEACHER.vocabulary)
    data = np.random.default_rng(0).permutation(sequences(train, options.sequences))
    validation = sequences(held_out, VALIDATION)
    CACHE.mkdir(parents=True, exist_ok=True)
    students = [
        student for student in STUDENTS + (EXPLANATIONS if options.explain else ())
        if not options.only or student.name in options.only
    ]  # fmt: skip
    specs = {student.spec or student.mean_of for student in students}
    if any(student.second_moment == "threshold" for student in students):
        specs.add(THRESHOLD)
    write_stores({spec for spec in specs if spec}, teacher, data)
    rows = []
    for seed in range(options.seeds):
        for student in students:
            figures = run(student, seed, teacher, data, validation, options.epochs)
            rows.append(figures | {"scheme": student.name, "seed": seed})
            print(json.dumps(rows[-1]), flush=True)
    report(rows)
    if options.json:
        options.json.write_text(json.dumps({"sequences": options.sequences, "rows": rows}, indent=2))
    if options.plot:
        plot(rows, options.plot)


def sequences(tokens: np.ndarray, count: int) -> np.ndarray:
    """Return (count, CONTEXT + 1) int64 tokens, from all over the text, without overlap."""
    usable = len(tokens) // (CONTEXT + 1)
    starts = np.linspace(0, usable - 1, num=count).astype(np.int64) * (CONTEXT + 1)
    return tokens[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int64)


def store_path(spec: str, rows: int) -> Path:
    """Return the directory of the store of an encoding."""
    return CACHE / "".join(letter if letter.isalnum() else "-" for letter in f"{spec}-{rows}")


def write_stores(specs: set[str], teacher: GPT, data: np.ndarray) -> None:
    """Write the store of each encoding, all in one pass of the teacher; complete stores are left alone."""
    missing = [spec for spec in sorted(specs) if not (store_path(spec, len(data)) / "snapshots").exists()]
    if not missing:
        return
    with contextlib.ExitStack() as stack:
        writers = []
        for spec in missing:
            head = sl.Head(classes=TEACHER.vocabulary, kind="tokens", shape=(None,), encoding=spec)
            writer = sl.create(
                store_path(spec, len(data)), heads={"logits": head}, teacher="GPT, 3 layers", unit_rows=64
            )
            writers.append(stack.enter_context(writer))
        for start in tqdm(range(0, len(data), BATCH), desc="labels", mininterval=10):
            rows = list(range(start, min(start + BATCH, len(data))))
            logits = list(predict(teacher, data[rows]))
            for writer in writers:
                writer.append(rows, {"logits": logits})


@torch.no_grad()
def predict(teacher: GPT, data: np.ndarray) -> Tensor:
    """Return the (B, CONTEXT, C) float32 logits of whole sequences."""
    return teacher.logits(torch.from_numpy(data[:, :-1]))


def labels_of(spec: str, rows: int) -> Iterator[SparseLabels]:
    """Yield the labels of each batch, in the order of the data."""
    store = sl.open(store_path(spec, rows))
    for batch in sl.loader(store, batch_size=BATCH, shuffle=False):
        labels = batch.targets["logits"]
        assert isinstance(labels, SparseLabels)
        yield labels


def bytes_of(student: Student, rows: int) -> float | None:
    """Return the bytes per token of a student's labels; None without a store."""
    if student.spec is None:
        return None
    if student.entry_bits is None:
        return sl.open(store_path(student.spec, rows)).bytes / (rows * CONTEXT)
    listed = sum(int(np.isfinite(labels.values).sum()) for labels in labels_of(student.spec, rows))
    return listed * student.entry_bits / 8 / (rows * CONTEXT)


def mean_of_counts(logits: Tensor, spec: str, rows: int) -> DenseLabels:
    """Return the mean over draws of the labels that ``counts`` makes of (N, C) logits."""
    store = sl.open(store_path(spec, rows))
    encoding = encodings.parse(store.heads["logits"].encoding, classes=logits.shape[1])
    assert isinstance(encoding, Counts)
    book = store.codebook("logits")
    assert book is not None
    p = logits.softmax(dim=-1)
    pi = book.priors[0][book.nearest_to(p)].astype(np.float64)
    exact = p.double().numpy()
    above = np.where(exact >= encoding.floor, exact, 0.0)
    excess = excess_over(above, np.where(above > 0, pi, 0.0), 1 - above.sum(axis=1))
    share = 1 - excess.sum(axis=1, keepdims=True)
    return DenseLabels(np.log(excess + share * pi).astype(np.float32))


def normalised(labels: SparseLabels) -> SparseLabels:
    """Return a sample whose weights sum to 1 in each row."""
    total = np.log(np.exp(labels.values.astype(np.float64)).sum(axis=1, keepdims=True))
    return replace(labels, values=(labels.values - total).astype(np.float32))


def loss_of(model: GPT, data: np.ndarray, labels: SoftLabels | None) -> Tensor:
    """Return the KL at T = 1 to the labels, or the cross-entropy with the true tokens."""
    ids = torch.from_numpy(data)
    with torch.autocast("cpu", torch.bfloat16):
        logits = functional.linear(model(ids[:, :-1]), model.embedding.weight).flatten(0, 1)
    if labels is None:
        return losses.cross_entropy(logits, ids[:, 1:].flatten())
    return losses.kl(logits, labels)


def gradient(model: GPT, data: np.ndarray, labels: SoftLabels | None) -> list[Tensor]:
    """Return the gradient of each parameter, clipped to a norm of 1 in all."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss_of(model, data, labels), parameters)
    norm = torch.stack([one.norm() for one in gradients]).norm()
    return [one / norm.clamp_min(1.0) for one in gradients]


class StudentGPT(GPT):
    """A GPT whose embeddings pass through a causal convolution per channel.

    It sees the last tokens from the first step on. A plain GPT learns to attend to them in a phase transition, whose
    step varies with seed and noise by far more than labels differ in a short run.
    """

    def __init__(self) -> None:
        super().__init__(STUDENT)
        self.mix = nn.Conv1d(STUDENT.width, STUDENT.width, TAPS, groups=STUDENT.width, padding=TAPS - 1, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (B, L, D) states of (B, L) token ids."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        x = x + self.mix(x.transpose(1, 2))[..., : ids.shape[1]].transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Adam:
    """AdamW as language_model.optimizer_of makes it, whose second moment may be that of another gradient."""

    def __init__(self, model: GPT) -> None:
        self.parameters = list(model.parameters())
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: list[Tensor], squared: list[Tensor], lr: float) -> None:
        """Update the parameters; ``squared`` are the gradients that the second moment is made of."""
        self.steps += 1
        for parameter, first, second, one, other in zip(
            self.parameters, self.first, self.second, gradients, squared, strict=True
        ):
            parameter.mul_(1 - lr * (0.1 if parameter.ndim == 2 else 0.0))
            first.lerp_(one, 0.1)
            second.mul_(0.95).addcmul_(other, other, value=0.05)
            scale = (second / (1 - 0.95**self.steps)).sqrt_().add_(1e-8)
            parameter.addcdiv_(first, scale, value=-lr / (1 - 0.9**self.steps))


def run(
    student: Student, seed: int, teacher: GPT, data: np.ndarray, validation: np.ndarray, epochs: int
) -> dict[str, float]:
    """Train one student and return its figures."""
    name = "".join(letter if letter.isalnum() else "-" for letter in student.name) + f"-{seed}-{len(data)}-{epochs}"
    done = CACHE / f"{name}.json"
    if done.exists():
        return dict(json.loads(done.read_text()))
    torch.manual_seed(seed)
    model = StudentGPT()
    optimizer = Adam(model)
    batches = np.arange(len(data)).reshape(-1, BATCH)
    stored = list(labels_of(student.spec, len(data))) if student.spec else []
    threshold = list(labels_of(THRESHOLD, len(data))) if student.second_moment == "threshold" else []

    def live(rows: np.ndarray) -> DenseLabels:
        logits = predict(teacher, data[rows]).flatten(0, 1)
        return (
            DenseLabels(logits.numpy())
            if student.mean_of is None
            else mean_of_counts(logits, student.mean_of, len(data))
        )

    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(len(batches)) for _ in range(epochs)])
    for step, number in enumerate(tqdm(order, desc=name, mininterval=10)):
        rows = batches[number]
        labels: SoftLabels | None = None if student.name == HARD else stored[number] if stored else live(rows)
        if student.normalised:
            assert isinstance(labels, SparseLabels)
            labels = normalised(labels)
        first = squared = gradient(model, data[rows], labels)
        if threshold:
            squared = gradient(model, data[rows], threshold[number])
        optimizer.step(first, squared, language_model.learning_rate(step, len(order), PEAK_LR, WARM_UP))
    figures = {"bytes": bytes_of(student, len(data))} | evaluate(model, teacher, validation)
    done.write_text(json.dumps(figures))
    return figures


@torch.no_grad()
def evaluate(model: GPT, teacher: GPT, validation: np.ndarray) -> dict[str, float]:
    """Return loss, KL to the teacher, agreement and calibration error on held-out text."""
    loss, kl, agree, confidence, hits = [], [], [], [], []
    for block in np.array_split(validation, max(1, len(validation) // 8)):
        true = torch.from_numpy(block[:, 1:]).flatten()
        log_q = model.logits(torch.from_numpy(block[:, :-1])).flatten(0, 1).log_softmax(-1)
        log_p = predict(teacher, block).flatten(0, 1).log_softmax(-1)
        loss.append(functional.nll_loss(log_q, true).item())
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1).mean().item())
        agree.append((log_p.argmax(-1) == log_q.argmax(-1)).float().mean().item())
        top, guess = log_q.max(-1)
        confidence.append(top.exp())
        hits.append((guess == true).float())
    top, right = torch.cat(confidence), torch.cat(hits)
    bins = (top * BINS).long().clamp_max(BINS - 1)
    error = sum(
        abs((top[bins == b] - right[bins == b]).mean().item()) * (bins == b).float().mean().item()
        for b in range(BINS)
        if (bins == b).any()
    )
    return {
        "loss": statistics.mean(loss), "kl": statistics.mean(kl), "agreement": statistics.mean(agree),
        "calibration_error": error,
    }  # fmt: skip


def above_live(rows: list[dict], key: str) -> dict[str, list[float]]:
    """Return by scheme its figure less that of full KD, seed by seed."""
    live = {row["seed"]: row[key] for row in rows if row["scheme"] == LIVE}
    above: dict[str, list[float]] = {}
    for row in rows:
        if row["seed"] in live:
            above.setdefault(row["scheme"], []).append(row[key] - live[row["seed"]])
    return above


def interval(values: list[float]) -> str:
    """Return the mean of paired differences with the half width of its 95 % confidence interval."""
    if len(values) not in T_QUANTILES:
        return f"{statistics.mean(values):+.4f}"
    half = T_QUANTILES[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.4f} ± {half:.4f}"


def report(rows: list[dict]) -> None:
    """Print means over seeds, and differences to full KD seed by seed with confidence intervals."""
    print("\n| labels | bytes per token | loss | loss above full KD | seed by seed | KL above full KD | calibration |")
    print("|---|---:|---:|---:|---|---:|---:|")
    loss, kl = above_live(rows, "loss"), above_live(rows, "kl")
    for name in dict.fromkeys(row["scheme"] for row in rows):
        of_name = [row for row in rows if row["scheme"] == name]
        size = "-" if of_name[0]["bytes"] is None else f"{of_name[0]['bytes']:.1f}"
        means = [statistics.mean(row[key] for row in of_name) for key in ("loss", "calibration_error")]
        differences = ("-", "-", "-") if name == LIVE else (
            interval(loss[name]), " ".join(f"{value:+.3f}" for value in loss[name]), interval(kl[name])
        )  # fmt: skip
        print(f"| {name} | {size} | {means[0]:.4f} | {' | '.join(differences)} | {means[1]:.3f} |")


def plot(rows: list[dict], path: Path) -> None:
    """Draw the loss above full KD, seed by seed, the nearest first."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    sizes = {row["scheme"]: "" if row["bytes"] is None else f" ({row['bytes']:.1f} B)" for row in rows}
    above = {name: values for name, values in above_live(rows, "loss").items() if name != LIVE}
    names = sorted(above, key=lambda name: -statistics.mean(above[name]))
    figure, axis = plt.subplots(figsize=(8, 0.36 * len(names) + 1.1))
    for place, name in enumerate(names):
        axis.plot(above[name], [place] * len(above[name]), "o", alpha=0.35, color="tab:blue")
        axis.plot(statistics.mean(above[name]), place, "|", markersize=16, markeredgewidth=2.5, color="tab:blue")
    axis.axvline(0, color="tab:green")
    axis.set_yticks(range(len(names)), [name + sizes[name] for name in names])
    axis.set_xscale("symlog", linthresh=0.02)
    ticks = [-0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("loss on held-out text above full KD, nats per token")
    axis.grid(visible=True, alpha=0.2)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
