"""Train students of one size from one teacher, through the labels of each encoding and through the live teacher.

    python benchmarks/students.py [--teacher flat|sharp] [--seeds 5] [--batch 8] [--json FILE] [--plot FILE]
    python benchmarks/students.py --study NAME [--seeds 2]      # one of those in STUDIES
    python benchmarks/students.py --speeds                      # epochs of the loader over the stores of the table

The teacher is the GPT of benchmarks/language_model.py with three layers of width 128 and 2,048 tokens, which is flat
(4.8 nats of entropy); ``sharp`` multiplies its logits, as large models are sharper. Students have two layers of width
64 behind a causal convolution. They learn from the same sequences of 256 tokens in one pass, by the KL at T = 1 alone.
The students of a seed start from the same weights and see the same batches in the same order, so they are compared pair
by pair. Labels are written by sl.create and read by sl.loader. Bytes per token are those of real stores, keys included;
those of RS-KD are 24 bits for each class drawn (arXiv 2503.16870).

Figures are on held-out text: loss on the true tokens, KL to the teacher, agreement, and calibration error (15 bins of
the top probability). Studies vary the batch, the learning rate or the optimiser for full KD and for labels alike, or
train students that explain the gap. Each run is stored in cache/students as it ends, and a study resumes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import language_model
import numpy as np
import torch
from student_labels import CACHE, Teacher
from student_model import Adam, StudentGPT, evaluate, gradient, logits_of
from torch import Tensor
from tqdm import tqdm

from softlabels import losses
from softlabels.labels import DenseLabels

STEPS, BATCH = 100, 8
"""Steps, and sequences per step."""
LEARNING_RATE = 3e-3
WARM_UP = 0.2
"""Share of the steps: with a shorter one seeds differ by more than encodings."""
HELD_OUT = 64
SPEED_RUNS = 9
SHARPNESS = {"flat": 1.0, "sharp": 1.75}
"""Factor of the logits by teacher."""
T_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % quantile of Student's t distribution by number of seeds."""
LIVE, HARD = "live teacher (full KD)", "true tokens alone"
THRESHOLD = "threshold:0.05"


@dataclass(frozen=True)
class Student:
    """A way to learn.

    Attributes:
        name: Name in the table.
        spec: Encoding of the store; None: the live teacher, true tokens, or labels that no store holds.
        entry_bits: Bits of each listed class, in place of the bytes of the store; None: those of the store.
        second_moment: Labels whose gradient, at the same weights, gives the second moment of Adam.
        mean_of: Encoding ``counts`` whose labels are replaced by their mean over draws; None: not.
        along: Number of draws that are systematic along the positions of a sequence; 0: none.
    """

    name: str
    spec: str | None = None
    entry_bits: int | None = None
    second_moment: Literal["own", "threshold"] = "own"
    mean_of: str | None = None
    along: int = 0


@dataclass(frozen=True)
class Setup:
    """The training that all students share.

    Attributes:
        teacher: Name of the teacher.
        steps: Number of steps.
        batch: Sequences per step.
        epochs: Passes over the sequences.
        lr: Peak of the learning rate.
        factored: Hold second moments by row and by column.
    """

    teacher: str = "flat"
    steps: int = STEPS
    batch: int = BATCH
    epochs: int = 1
    lr: float = LEARNING_RATE
    factored: bool = False

    @property
    def sequences(self) -> int:
        """Number of sequences that the students learn from."""
        return self.steps * self.batch // self.epochs

    @property
    def name(self) -> str:
        """Short name, for files and for the table."""
        optimizer = "-factored" if self.factored else ""
        return f"{self.teacher}-{self.steps}x{self.batch}-{self.epochs}-{self.lr:g}{optimizer}"


def of_specs(*specs: str) -> tuple[Student, ...]:
    """Return the students of stores."""
    return tuple(Student(spec, spec) for spec in specs)


def rs_kd(draws: int) -> Student:
    """Return a student of RS-KD."""
    return Student(f"RS-KD, {draws} draws", f"sampled:{draws}", entry_bits=24)


TABLE = {
    "flat": (
        Student(LIVE), *of_specs(THRESHOLD, "counts:3:0", "counts:5:0", "counts:8:0", "counts:14:0", "counts:18"),
        Student(HARD), rs_kd(7), rs_kd(15), Student("adaptive", "adaptive:0.009:d4:64"),
    ),
    "sharp": (
        Student(LIVE), *of_specs(THRESHOLD, "counts:4:0", "counts:7:0", "counts:12:0", "counts:12", "counts:20"),
        Student(HARD), rs_kd(12), rs_kd(32), Student("adaptive", "adaptive:0.009:d4:64"),
    ),
}  # fmt: skip
"""Students of the table by teacher."""
FEW = {
    "flat": (Student(LIVE), *of_specs(THRESHOLD, "counts:8:0")),
    "sharp": (Student(LIVE), *of_specs(THRESHOLD, "counts:7:0", "counts:20")),
}
EXPLANATIONS = (
    Student("full KD, second moment of threshold", second_moment="threshold"),
    Student("mean of counts:18", mean_of="counts:18"),
    Student("8 draws along positions", along=8),
)
STUDIES: dict[str, tuple[list[Setup], tuple[Student, ...]]] = {
    "batch-flat": ([Setup(batch=batch) for batch in (2, 8, 32)], FEW["flat"]),
    "batch-sharp": ([Setup("sharp", batch=batch) for batch in (2, 8, 32)], FEW["sharp"]),
    "lr": ([Setup(lr=factor * LEARNING_RATE) for factor in (0.5, 1, 2)], FEW["flat"]),
    "optimizer": ([Setup(factored=factored) for factored in (False, True)], FEW["flat"]),
    "explain": ([Setup()], (*FEW["flat"], *EXPLANATIONS)),
}
"""Set-ups and students of each study."""


def main() -> None:
    """Train students and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", choices=list(SHARPNESS), default="flat")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of students to train")
    parser.add_argument("--study", choices=list(STUDIES), help="train the students of a study in place of the table's")
    parser.add_argument("--speeds", action="store_true", help="measure the loader instead")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    setups, students = [Setup(options.teacher, options.steps, options.batch)], TABLE[options.teacher]
    if options.study:
        setups, students = STUDIES[options.study]
    if options.speeds:
        speeds(setups[0], [student.spec for student in students if student.spec and student.entry_bits is None])
        return
    students = tuple(student for student in students if not options.only or student.name in options.only)
    rows = []
    for setup in setups:
        of_setup = train_all(setup, students, options.seeds)
        report(setup, of_setup)
        rows += of_setup
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    if options.plot:
        plot(rows, options.plot)


def teacher_of(setup: Setup) -> Teacher:
    """Return the teacher; set-ups of few sequences learn from the first ones of the stores of the table."""
    return Teacher(max(setup.sequences, STEPS * BATCH), HELD_OUT, SHARPNESS[setup.teacher])


def speeds(setup: Setup, specs: list[str]) -> None:
    """Print the positions per second of CPU time in an epoch of the loader, medians of interleaved runs."""
    torch.set_num_threads(1)
    teacher = teacher_of(setup)
    teacher.write_stores(set(specs))
    seconds: dict[str, list[float]] = {spec: [] for spec in specs}
    for _ in range(SPEED_RUNS):
        for spec in specs:
            seconds[spec].append(teacher.epoch_seconds(spec))
    for spec, runs in seconds.items():
        print(f"{spec}: {teacher.positions / statistics.median(runs) / 1e6:.2f} M positions/s")


def train_all(setup: Setup, students: tuple[Student, ...], seeds: int) -> list[dict]:
    """Train the students of a set-up, seed by seed, and return their figures; those of the cache are used again."""
    names = [(student, seed, CACHE / f"{file_name(student.name)}-{seed}-{setup.name}.json")
             for seed in range(seeds) for student in students]  # fmt: skip
    if not all(path.exists() for _, _, path in names):
        teacher = teacher_of(setup)
        specs = {student.spec or student.mean_of for student in students}
        if any(student.second_moment == "threshold" for student in students):
            specs.add(THRESHOLD)
        teacher.write_stores({spec for spec in specs if spec})
        for student, seed, path in names:
            if not path.exists():
                path.write_text(json.dumps(run(student, seed, teacher, setup)))
                print(path.stem, path.read_text(), flush=True)
    return [
        json.loads(path.read_text()) | {"setup": setup.name, "scheme": student.name, "seed": seed}
        for student, seed, path in names
    ]


def file_name(name: str) -> str:
    """Return a name with dashes in place of all but letters and digits."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def run(student: Student, seed: int, teacher: Teacher, setup: Setup) -> dict[str, float | None]:
    """Train one student and return its figures."""
    torch.manual_seed(seed)
    model = StudentGPT()
    optimizer = Adam(model, factored=setup.factored)
    loss = loss_of(student, teacher, setup.batch)
    moment = loss_of(Student(THRESHOLD, THRESHOLD), teacher, setup.batch) if student.second_moment != "own" else None
    random = np.random.default_rng(seed)
    batches = setup.sequences // setup.batch
    order = np.concatenate([random.permutation(batches) for _ in range(setup.epochs)])
    for step, number in enumerate(tqdm(order, desc=f"{student.name} {seed}", mininterval=30)):
        first = squared = gradient(loss(model, number), model)
        if moment:
            squared = gradient(moment(model, number), model)
        optimizer.step(first, squared, language_model.learning_rate(step, len(order), setup.lr, WARM_UP))
    size = teacher.bytes_per_token(student.spec, student.entry_bits) if student.spec else None
    return {"bytes": size, "entropy": teacher.entropy} | evaluate(
        model, torch.from_numpy(teacher.held_out), teacher.on_held_out
    )


def loss_of(student: Student, teacher: Teacher, batch: int) -> Callable[[StudentGPT, int], Tensor]:
    """Return the loss of a model on a batch: KL at T = 1 to the labels, or cross-entropy with the true tokens."""
    stored = list(teacher.labels(student.spec, batch)) if student.spec else []

    def loss(model: StudentGPT, number: int) -> Tensor:
        rows = np.arange(number * batch, (number + 1) * batch)
        data = torch.from_numpy(teacher.data[rows])
        logits = logits_of(model, data)
        if student.name == HARD:
            return losses.cross_entropy(logits, data[:, 1:].flatten())
        if student.along:
            # Weights do not sum to 1, so the logsumexp has the factor 1, which makes the gradient q - p^.
            weights = teacher.along_positions(student.along, rows)
            return (logits.float().logsumexp(-1) - (weights * logits.float()).sum(-1)).mean()
        if stored:
            return losses.kl(logits, stored[number])
        if student.mean_of:
            return losses.kl(logits, teacher.mean_of_counts(student.mean_of, rows))
        return losses.kl(logits, DenseLabels(teacher.of(rows).flatten(0, 1).numpy()))

    return loss


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


def report(setup: Setup, rows: list[dict]) -> None:
    """Print means over seeds, and differences to full KD seed by seed with confidence intervals."""
    print(f"\n{setup.name}: {setup.sequences} sequences, entropy of the teacher {rows[0]['entropy']:.2f} nats")
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
