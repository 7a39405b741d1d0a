"""Train students of one size from one teacher, through each scheme and through the live teacher.

    python benchmarks/students.py [--sequences 2000] [--seeds 3] [--json students.json] [--plot docs/students.svg]

Teacher: benchmarks/language_model.py. Students: two layers, width 128, the same vocabulary, one pass over the same
sequences of 256 tokens in the same order for a seed, KL at T = 1 alone. Labels are written by sl.create and read by
sl.loader, so bytes a token are those of real stores, keys included; of others' schemes those of benchmarks/schemes.py.
Encodings are given by what they are to cost, and found by softlabels.fidelity on a sample. Figures are on
held-out text: loss on the true tokens, KL to the teacher, calibration error (15 bins of the top probability), and the
angle of the gradient to that of the live teacher, for the same student and batches. Each run is cached as it ends in
cache/students, so an interrupted benchmark goes on; about an hour and a half on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import language_model
import numpy as np
import schemes
import torch
from language_model import CONTEXT, GPT, Shape
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

import softlabels as sl
from softlabels import losses, planning
from softlabels.labels import DenseLabels, SoftLabels

CACHE = language_model.ROOT / "cache" / "students"
STUDENT = Shape(layers=2, width=128)
BATCH = 8
PEAK_LR = 1.5e-3
WARM_UP = 0.2
"""Of the steps: with a shorter one seeds differ by more than schemes."""
VALIDATION = 48
ANGLE_BATCHES = 4
BINS = 15


@dataclass(frozen=True)
class Student:
    """A way to learn.

    Attributes:
        name: for the table.
        spec: encoding of the store; None: the live teacher, or true tokens.
        tail: of the head.
        rival: whose bytes count instead of the store's; None: it is ours.
    """

    name: str
    spec: str | None = None
    tail: str = "calibrated"
    rival: schemes.Scheme | None = None


LIVE, HARD = "live teacher (full KD)", "true tokens alone"
REFERENCE = Student("threshold, 20 bytes", "threshold:bytes=20")
SAMPLE, PILOT = 8, 64
"""Sequences that encodings are chosen by, and that a codebook is fitted to."""


def students() -> list[Student]:
    """Those compared, the most telling first."""
    classes = language_model.VOCABULARY
    return [
        Student(LIVE),
        REFERENCE,
        Student("RS-KD, 10 draws", "sampled:10", rival=schemes.rs_kd(10, classes)),
        Student("top-6 by hand, renormalised", "topk:6:f16", "renormalize", schemes.by_hand(6, renormalised=True)),
        Student("adaptive with codebook, 20 bytes", "adaptive:bytes=20:d4:64"),
        Student(HARD),
        Student("threshold, 10 bytes", "threshold:bytes=10"),
        Student("threshold, 40 bytes", "threshold:bytes=40"),
        Student("adaptive with codebook, 40 bytes", "adaptive:bytes=40:d4:64"),
        Student("adaptive with codebook of 256, 20 bytes", "adaptive:bytes=20:d4:256"),
    ]


def main() -> None:
    """Train all, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of the teacher's training")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    teacher = language_model.train(options.steps, 0)
    train, held_out = language_model.token_files()
    data = sequences(train, options.sequences)
    validation = sequences(held_out, VALIDATION)
    CACHE.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(options.seeds):
        for student in students():
            rows.append(run(student, seed, teacher, data, validation) | {"scheme": student.name, "seed": seed})
            print(json.dumps(rows[-1]), flush=True)
    angles(teacher, data, rows)
    report(rows)
    if options.json:
        options.json.write_text(json.dumps({"sequences": options.sequences, "rows": rows}, indent=2))
    if options.plot:
        plot(rows, options.plot)


def sequences(tokens: np.ndarray, count: int) -> np.ndarray:
    """(count, CONTEXT + 1) int64, from all over the text, without overlap."""
    usable = len(tokens) // (CONTEXT + 1)
    chosen = np.linspace(0, usable - 1, num=count).astype(np.int64)
    return np.stack([tokens[at * (CONTEXT + 1) : (at + 1) * (CONTEXT + 1)] for at in chosen]).astype(np.int64)


def store_of(student: Student, teacher: GPT, data: np.ndarray) -> tuple[sl.store.Store, float]:
    """The student's labels and their bytes a token; written once, resumed where interrupted."""
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{student.spec}-{student.tail}-{len(data)}")
    head = sl.Head(
        classes=language_model.VOCABULARY,
        kind="tokens",
        shape=(None,),
        encoding=found_encoding(str(student.spec), teacher, data),
        tail=student.tail,  # type: ignore[arg-type]
    )
    pilot = {"logits": ask(teacher, spread(data, PILOT)).flatten(0, 1)} if head.encoding.count(":") == 3 else None
    with sl.create(CACHE / name, heads={"logits": head}, teacher="GPT, 4 layers", unit_rows=64, pilot=pilot) as writer:
        for start in tqdm(range(0, len(data), BATCH), desc=f"labels {student.spec}", mininterval=10):
            rows = np.arange(start, min(start + BATCH, len(data)))
            missing = rows[writer.missing([int(row) for row in rows])]
            if len(missing):
                writer.append([int(row) for row in missing], {"logits": list(ask(teacher, data[missing]))})
    store = sl.open(CACHE / name)
    if student.rival is None:
        return store, store.bytes / (len(data) * CONTEXT)
    _, size = student.rival.encode(ask(teacher, data[:BATCH]).flatten(0, 1), 0)
    return store, size


def found_encoding(spec: str, teacher: GPT, data: np.ndarray) -> str:
    """Return the encoding that a target resolves to on a sample of the teacher; computed once."""
    if not planning.is_target(spec):
        return spec
    cached = CACHE / "encodings.json"
    known = json.loads(cached.read_text()) if cached.exists() else {}
    if spec not in known:
        sample = planning.Sample(
            logits=ask(teacher, spread(data, SAMPLE)).flatten(0, 1).numpy(),
            temperatures=(1.0,),
            items=len(data) * CONTEXT,
            rows=len(data),
            kind="tokens",
        )
        known[spec] = planning.resolve(spec, sample)
        cached.write_text(json.dumps(known, indent=2))
    return known[spec]


def spread(data: np.ndarray, count: int) -> np.ndarray:
    """Sequences from all over the data."""
    return data[np.linspace(0, len(data) - 1, num=count).astype(np.int64)]


@torch.no_grad()
def ask(teacher: GPT, data: np.ndarray) -> Tensor:
    """(B, CONTEXT, C) float32 logits of whole sequences."""
    return teacher.logits(torch.from_numpy(data[:, :-1]))


def batches(student: Student, seed: int, teacher: GPT, data: np.ndarray) -> tuple[Iterator[tuple], float | None, int]:
    """(rows, labels or None) of one epoch, bytes a token, and the number of steps."""
    if student.spec is not None:
        store, size = store_of(student, teacher, data)
        loader = sl.loader(store, batch_size=BATCH, seed=seed)
        # A store that grows keeps rows in the order they were appended, which is that of ``data``.
        return ((batch.rows, batch.targets["logits"]) for batch in loader), size, len(loader)
    # The same order, from any store of these rows.
    reference, _ = store_of(REFERENCE, teacher, data)
    loader = sl.loader(reference, batch_size=BATCH, seed=seed)
    if student.name == LIVE:
        found = ((b.rows, DenseLabels(ask(teacher, data[b.rows]).flatten(0, 1).numpy())) for b in loader)
        return found, None, len(loader)
    return ((batch.rows, None) for batch in loader), None, len(loader)


def loss_of(model: GPT, data: np.ndarray, labels: SoftLabels | None) -> Tensor:
    """KL at T = 1 to the labels, or cross-entropy with the true tokens."""
    ids = torch.from_numpy(data)
    with torch.autocast("cpu", torch.bfloat16):
        logits = functional.linear(model(ids[:, :-1]), model.embedding.weight).flatten(0, 1)
    if labels is None:
        return losses.cross_entropy(logits, ids[:, 1:].flatten())
    return losses.kl(logits, labels)


def run(student: Student, seed: int, teacher: GPT, data: np.ndarray, validation: np.ndarray) -> dict[str, float]:
    """Train one student; its figures."""
    name = "".join(letter if letter.isalnum() else "-" for letter in student.name) + f"-{seed}-{len(data)}"
    done = CACHE / f"{name}.json"
    if done.exists():
        return json.loads(done.read_text())
    torch.manual_seed(seed)
    model = GPT(STUDENT)
    optimizer = language_model.optimizer_of(model)
    found, size, steps = batches(student, seed, teacher, data)
    for step, (rows, labels) in enumerate(tqdm(found, total=steps, desc=name, mininterval=10)):
        for group in optimizer.param_groups:
            group["lr"] = language_model.learning_rate(step, steps, PEAK_LR, WARM_UP)
        loss_of(model, data[rows], labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if student.name == LIVE and seed == 0:
        save_file(model.state_dict(), CACHE / "live.safetensors")
    figures = {"bytes": size} | evaluate(model, teacher, validation)
    done.write_text(json.dumps(figures))
    return figures


@torch.no_grad()
def evaluate(model: GPT, teacher: GPT, validation: np.ndarray) -> dict[str, float]:
    """Loss, KL to the teacher, agreement, calibration error on held-out text."""
    loss, kl, agree, confidence, right = [], [], [], [], []
    for start in range(0, len(validation), 8):
        part = validation[start : start + 8]
        true = torch.from_numpy(part[:, 1:]).flatten()
        log_q = model.logits(torch.from_numpy(part[:, :-1])).flatten(0, 1).log_softmax(-1)
        log_p = ask(teacher, part).flatten(0, 1).log_softmax(-1)
        loss.append(functional.nll_loss(log_q, true).item())
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1).mean().item())
        agree.append((log_p.argmax(-1) == log_q.argmax(-1)).float().mean().item())
        top, guess = log_q.max(-1)
        confidence.append(top.exp())
        right.append((guess == true).float())
    top, hits = torch.cat(confidence), torch.cat(right)
    bins = (top * BINS).long().clamp_max(BINS - 1)
    error = sum(
        abs((top[bins == b] - hits[bins == b]).mean().item()) * (bins == b).float().mean().item()
        for b in range(BINS)
        if (bins == b).any()
    )
    return {
        "loss": statistics.mean(loss), "kl": statistics.mean(kl), "agreement": statistics.mean(agree),
        "calibration_error": error,
    }  # fmt: skip


def angles(teacher: GPT, data: np.ndarray, rows: list[dict]) -> None:
    """Add to each scheme the cosine of its gradient with the live teacher's, at the live student's weights."""
    model = GPT(STUDENT)
    model.load_state_dict(load_file(CACHE / "live.safetensors"))
    for student in students():
        if student.name == HARD:
            continue
        cosines = []
        found, _, _ = batches(student, 99, teacher, data)
        for _, (numbers, labels) in zip(range(ANGLE_BATCHES), found, strict=False):
            live = DenseLabels(ask(teacher, data[numbers]).flatten(0, 1).numpy())
            one, other = (gradient(model, data[numbers], given) for given in (labels, live))
            cosines.append(functional.cosine_similarity(one, other, dim=0).item())
        degrees = math.degrees(math.acos(min(1.0, statistics.mean(cosines))))
        for row in rows:
            if row["scheme"] == student.name:
                row["angle"] = degrees


def gradient(model: GPT, data: np.ndarray, labels: SoftLabels | None) -> Tensor:
    """Of all parameters, as one vector."""
    model.zero_grad()
    loss_of(model, data, labels).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double()


def report(rows: list[dict]) -> None:
    """A table: means over seeds and standard deviations; of the loss also what it is above full KD, seed by seed."""
    print("\n| labels | bytes a token | loss | above full KD | KL to teacher | agreement | calibration error | angle |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    live = {row["seed"]: row["loss"] for row in rows if row["scheme"] == LIVE}
    for name in dict.fromkeys(row["scheme"] for row in rows):
        mine = [row for row in rows if row["scheme"] == name]
        cells = []
        above = [row["loss"] - live[row["seed"]] for row in mine]
        figures = [[row[key] for row in mine] for key in ("loss", "kl", "agreement", "calibration_error")]
        for values in (figures[0], above, *figures[1:]):
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        size = "-" if mine[0]["bytes"] is None else f"{mine[0]['bytes']:.1f}"
        angle = f"{mine[0]['angle']:.1f}°" if "angle" in mine[0] else "-"
        print(f"| {name} | {size} | " + " | ".join(cells) + f" | {angle} |")


def plot(rows: list[dict], path: Path) -> None:
    """Loss on held-out text above that of full KD, seed by seed, the nearest first."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    live = {row["seed"]: row["loss"] for row in rows if row["scheme"] == LIVE}
    above: dict[str, list[float]] = {}
    for row in rows:
        if row["scheme"] != LIVE:
            size = "" if row["bytes"] is None else f" ({row['bytes']:.1f} B)"
            above.setdefault(row["scheme"] + size, []).append(row["loss"] - live[row["seed"]])
    names = sorted(above, key=lambda name: -statistics.mean(above[name]))
    figure, axis = plt.subplots(figsize=(8, 0.36 * len(names) + 1.1))
    for place, name in enumerate(names):
        axis.plot(above[name], [place] * len(above[name]), "o", alpha=0.35, color="tab:blue")
        axis.plot(statistics.mean(above[name]), place, "|", markersize=16, markeredgewidth=2.5, color="tab:blue")
    if len(live) > 1:
        noise = statistics.stdev(live.values())
        axis.axvline(noise, ls="--", color="tab:green")
        axis.annotate("full KD, deviation over seeds", (noise, 0), rotation=90, xytext=(-11, 0),
                      textcoords="offset points", fontsize=8, color="tab:green")  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    axis.set(xscale="log", xlabel="loss on held-out text above full KD, nats a token")
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.grid(visible=True, alpha=0.2)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
