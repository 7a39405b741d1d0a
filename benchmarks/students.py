"""Train students of one size from one teacher, through the labels of each encoding and through the live teacher.

    python benchmarks/students.py [--teacher flat sharp] [--seeds 5] [--batch 8] [--plot FILE]
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
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import language_model
import numpy as np
import torch
from student_labels import CACHE, Teacher, canonical
from student_model import Adam, StudentGPT, evaluate, gradient, logits_of
from student_report import HARD, LIVE, UNUSED, plot, report
from torch import Tensor
from tqdm import tqdm

from softlabels import losses
from softlabels.labels import DenseLabels

STEPS, BATCH = 240, 8
"""Steps, and sequences per step."""
LEARNING_RATE = 3e-3
WARM_UP = 0.2
"""Share of the steps: with a shorter one seeds differ by more than encodings."""
HELD_OUT = 64
SPEED_RUNS = 9
SHARPNESS = {"flat": 1.0, "sharp": 1.75}
"""Factor of the logits by teacher."""
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
        coupled: Use the offsets of dithered labels.
    """

    name: str
    spec: str | None = None
    entry_bits: int | None = None
    second_moment: Literal["own", "threshold"] = "own"
    mean_of: str | None = None
    along: int = 0
    coupled: bool = True

    @property
    def cached_as(self) -> str:
        """Name in the cache: with the rule that the store follows, where the name is that of the encoding."""
        return canonical(self.spec) if self.spec and self.name == self.spec else self.name


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


def uncoupled(spec: str) -> Student:
    """Return the student of a dithered store whose offsets are not used."""
    return Student(spec + UNUSED, spec, coupled=False)


def rs_kd(draws: int) -> Student:
    """Return a student of RS-KD."""
    return Student(f"RS-KD, {draws} draws", f"sampled:{draws}", entry_bits=24)


TABLE = {
    "flat": (
        Student(LIVE), *of_specs(THRESHOLD, "threshold:0.1", "counts:3", "counts:5", "counts:8", "counts:14"),
        uncoupled("counts:5"), uncoupled("counts:8"),
        Student("counts:18:0.00556", "counts:18:0.00556"), Student(HARD),
        rs_kd(7), rs_kd(15), Student("adaptive", "adaptive:0.009:d4:64"),
    ),
    "sharp": (
        Student(LIVE), *of_specs(THRESHOLD, "threshold:0.1", "counts:4", "counts:7", "counts:12", "counts:20"),
        uncoupled("counts:4"), uncoupled("counts:7"),
        Student("counts:20:0.005", "counts:20:0.005"), Student(HARD),
        rs_kd(12), rs_kd(32), Student("adaptive", "adaptive:0.009:d4:64"),
    ),
}  # fmt: skip
"""Students of the table by teacher."""
FEW = {
    "flat": (Student(LIVE), *of_specs(THRESHOLD, "counts:8")),
    "sharp": (Student(LIVE), *of_specs("counts:7"), uncoupled("counts:7")),
}
EXPLANATIONS = (
    Student("full KD, second moment of threshold", second_moment="threshold"),
    Student("mean of counts:18:0.00556", mean_of="counts:18:0.00556"),
    Student("8 draws along positions", along=8),
)
STUDIES: dict[str, list[tuple[Setup, tuple[Student, ...]]]] = {
    "batch": [
        (Setup("sharp", batch=batch, epochs=epochs), FEW["sharp"]) for batch, epochs in ((16, 2), (8, 1), (2, 1))
    ],
    "lr": [(Setup(lr=factor * LEARNING_RATE), FEW["flat"]) for factor in (0.5, 1, 2)],
    "optimizer": [(Setup(factored=factored), FEW["flat"]) for factored in (False, True)],
    "coupling": [
        (setup, (Student(LIVE), *of_specs("counts:5", "counts:8"), uncoupled("counts:5"), uncoupled("counts:8")))
        for setup in (Setup(lr=LEARNING_RATE / 2), Setup(epochs=4))
    ],
    "codewords": [(Setup(), (Student(LIVE), *of_specs("counts:8:0:16", "counts:8", "counts:8:0:256")))],
    "explain": [(Setup(), (*FEW["flat"], *EXPLANATIONS))],
}
"""Set-ups and students of each study."""


def main() -> None:
    """Train students and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", choices=list(SHARPNESS), nargs="*", default=list(SHARPNESS))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of students to train")
    parser.add_argument("--study", choices=list(STUDIES), help="train the students of a study in place of the table's")
    parser.add_argument("--speeds", action="store_true", help="measure the loader instead")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    setups = [Setup(teacher, options.steps, options.batch) for teacher in options.teacher]
    plans = STUDIES[options.study] if options.study else [(setup, TABLE[setup.teacher]) for setup in setups]
    rows = []
    for setup, students in plans:
        if options.speeds:
            speeds(setup, [student.spec for student in students if student.spec and student.entry_bits is None])
            continue
        chosen = [student for student in students if not options.only or student.name in options.only]
        rows += train_all(setup, chosen, options.seeds)
    report(rows)
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


def train_all(setup: Setup, students: list[Student], seeds: int) -> list[dict]:
    """Train the students of a set-up, seed by seed, and return their figures; those of the cache are used again."""
    names = [(student, seed, CACHE / f"{file_name(student.cached_as)}-{seed}-{setup.name}.json")
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
    if not student.coupled:
        stored = [replace(labels, dither=None) for labels in stored]

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


if __name__ == "__main__":
    main()
