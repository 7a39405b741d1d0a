"""Bytes a row against what is kept, for our encodings and for what people do by hand.

    python benchmarks/fidelity.py [--positions 4096] [--json fidelity.json] [--plot docs/fidelity.svg]

A language model (benchmarks/language_model.py, trained and cached first) and an image classifier of the bundled digits.
KL(p || p^) is in nats over all classes, the error is E sum (p^ - p)^2, the bias sum |E (p^ - p)|, all in float64 on
held out rows; tail priors come from other rows. Encoding is timed beside torch.topk(32) and torch.logsumexp of the same
logits, interleaved, one thread each, medians.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import language_model
import numpy as np
import schemes
import torch
from torch import Tensor
from tqdm import tqdm

import softlabels as sl
from softlabels import encodings
from softlabels.encodings import halves
from softlabels.encodings.encoding import check_distinct
from softlabels.labels import Head
from softlabels.models import load_run
from softlabels.sources import open_source

PRIOR_POSITIONS = 16_384
TIMED_ROWS = 512
ENTROPY = 2.45
"""Nats; of a language model trained for longer than this benchmark can."""
LANGUAGE, UNTOUCHED = f"language model, sharpened to {ENTROPY} nats", "language model, as trained"
TIMED_RUNS = 9


@dataclass(frozen=True)
class Row:
    """One scheme, measured."""

    teacher: str
    scheme: str
    family: str
    ours: bool
    bytes: float
    ids: float
    kl: float
    error: float
    bias: float


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1500, help="of the language model's training")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--speeds", action="store_true", help="time the encoders alone; under a minute")
    parser.add_argument("--checks", action="store_true", help="time the checks of columns that are read; seconds")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.checks:
        report_checks(time_checks())
        return
    if options.speeds:
        report_speeds(time_encoding(language_logits(options.steps, TIMED_ROWS)[0][:TIMED_ROWS]))
        return
    text, others = language_logits(options.steps, options.positions)
    rows, factor = [], sharpening(text)
    for name, by in ((LANGUAGE, factor), (UNTOUCHED, 1.0)):
        rows += measure(
            name, text * by, lambda by=by: (logits.float() * by for logits in others.split(1024)), language_schemes
        )
    images, prior_images = image_logits()
    rows += measure("image classifier", images, lambda: iter([prior_images]), image_schemes)
    speeds = time_encoding(text[:TIMED_ROWS])
    report(rows, speeds, mean_entropy(text), factor)
    if options.json:
        figures = {"rows": [asdict(row) for row in rows], "goals": goals(rows), "speeds": speeds}
        options.json.write_text(json.dumps(figures | {"entropy": mean_entropy(text), "sharpened_by": factor}, indent=2))
    if options.plot:
        plot(rows, options.plot)


@torch.no_grad()
def language_logits(steps: int, positions: int) -> tuple[Tensor, Tensor]:
    """Logits of held-out positions, float32, and of training positions for the prior, float16."""
    model = language_model.train(steps, 0)
    train, held_out = language_model.token_files()
    samples = []
    for tokens, count, seed in ((held_out, positions, 2), (train, PRIOR_POSITIONS, 3)):
        generator, parts = np.random.default_rng(seed), []
        while sum(map(len, parts)) < count:
            ids, _ = language_model.batch(tokens, generator, 4)
            logits = model.logits(ids).flatten(0, 1)
            parts.append(logits[torch.from_numpy(generator.permutation(len(logits))[:128])].half())
        samples.append(torch.cat(parts)[:count])
    return samples[0].float(), samples[1]


def image_logits() -> tuple[Tensor, Tensor]:
    """Logits of a CNN for the digits' test rows, and for its training rows."""
    source = open_source("digits")
    folder = language_model.ROOT / "cache" / "image_teacher"
    sl.train_teacher(source, "cnn:width=32,depth=2", folder, epochs=20)
    model = load_run(folder)

    def predict(rows: np.ndarray) -> Tensor:
        starts = range(0, len(rows), 256)
        return torch.cat([model.predict(source.inputs(rows[start : start + 256]))["logits"] for start in starts])

    return predict(source.split("test")).float(), predict(source.split("train")).float()


def sharpening(logits: Tensor) -> float:
    """The factor that gives the logits the mean entropy of a well-trained language model."""
    low, high = 0.5, 4.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_entropy(logits[:1024] * middle) > ENTROPY else (low, middle)
    return high


def language_schemes(tail: Callable[[str], schemes.Tail], classes: int) -> list[schemes.Scheme]:
    """Return the schemes that are compared for many classes."""
    specs = [f"topk:{k}:{values}" for k in (8, 16, 32, 64, 128) for values in ("f16", "q8", "d4")]
    specs += [f"adaptive:{least:g}:d4" for least in (0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002)]
    specs += [f"adaptive:{least:g}:d4:64" for least in (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)]
    specs += [f"adaptive:{least:g}:d16:64" for least in (0.001, 0.0005, 0.0002)]
    specs += ["adaptive:0.01:d4:16", "adaptive:0.01:d4:256", "topk:16:d4:64"]
    unbiased = [f"threshold:{tau:g}" for tau in (0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005)]
    unbiased += ["sampled:50", "sampled:50:0.8"]
    return [
        *(schemes.ours(spec, classes, tail=tail(spec)) for spec in specs + unbiased),
        *(schemes.by_hand(k) for k in (8, 16, 32, 50, 64, 128, 256)),
        *(schemes.by_hand(k, renormalised=True) for k in (16, 50)),
        *(schemes.rs_kd(draws, classes) for draws in (10, 20, 50, 100)),
        schemes.polynomial(50, 1, schemes.BUDGET, classes),
        schemes.polynomial(128, 16, schemes.RECOMMENDED, classes),
    ]


def image_schemes(tail: Callable[[str], schemes.Tail], classes: int) -> list[schemes.Scheme]:
    """Return the schemes that are compared for ten classes."""
    specs = ["dense:f16", "dense:q8", *(f"topk:{k}:{values}" for k in (1, 2, 4) for values in ("f16", "d4"))]
    return [
        *(schemes.ours(spec, classes, tail=tail(spec)) for spec in specs),
        *(schemes.by_hand(k) for k in (2, 4)),
        schemes.rs_kd(20, classes),
    ]


def measure(
    teacher: str, logits: Tensor, others: Callable[[], object], choose: Callable[..., list[schemes.Scheme]]
) -> list[Row]:
    """A row a scheme."""
    classes = logits.shape[1]
    chosen = choose(lambda spec: schemes.tail_of(spec, others, classes), classes)
    rows = []
    for scheme in tqdm(chosen, desc=teacher, mininterval=5):
        labels, size = scheme.encode(logits, 0)
        rows.append(Row(teacher, scheme.name, scheme.family, scheme.ours, size, **schemes.figures(logits, labels)))
    return rows


def goals(rows: list[Row]) -> list[dict[str, object]]:
    """Ours against each of the others: bytes at equal KL (or error), and KL at equal bytes."""
    results: list[dict[str, object]] = []
    for teacher, family, distance in itertools.product((LANGUAGE, UNTOUCHED), ("exact", "unbiased"), ("kl", "error")):
        if (family == "exact") != (distance == "kl"):
            continue
        here = [row for row in rows if row.family == family and row.teacher == teacher]
        rivals, own = [row for row in here if not row.ours], [row for row in here if row.ours]
        front = _front(own, distance)
        for rival in rivals:
            target = getattr(rival, distance)
            results.append({
                "teacher": teacher, "rival": rival.scheme, "bytes": rival.bytes, distance: target,
                "bytes_ratio": _at(front, distance, "bytes", target) / rival.bytes,
                f"{distance}_ratio": _at(front, "bytes", distance, rival.bytes) / target,
            })  # fmt: skip
    return results


def _front(rows: list[Row], distance: str) -> list[Row]:
    """The rows no other beats in both bytes and distance, by bytes."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: row.bytes):
        if not front or getattr(row, distance) < getattr(front[-1], distance):
            front.append(row)
    return front


def _at(front: list[Row], x: str, y: str, value: float) -> float:
    """``y`` where the front has ``x`` = value, between its points on logarithmic axes; NaN beyond its ends."""
    points = sorted((getattr(row, x), getattr(row, y)) for row in front)
    xs, ys = np.log([p[0] for p in points]), np.log([p[1] for p in points])
    return float(np.exp(np.interp(np.log(value), xs, ys, left=np.nan, right=np.nan)))


def time_encoding(logits: Tensor) -> list[dict[str, object]]:
    """Milliseconds to encode, beside torch.topk and torch.logsumexp of the same logits."""
    classes, rows = logits.shape[1], np.arange(len(logits))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tasks: dict[str, Callable[[], object]] = {
        "torch.topk(32) + torch.logsumexp": lambda: (logits.topk(32, dim=-1), logits.logsumexp(dim=-1))
    }
    for spec in (
        "topk:32:f16",
        "topk:32:d4",
        "adaptive:0.002:d4",
        "adaptive:0.01:d4:64",
        "threshold:0.05",
        "sampled:50",
    ):
        encoding = encodings.parse(spec, classes=classes)
        tail = schemes.tail_of(spec, lambda: iter([logits]), classes) if encoding.priors > 1 else schemes.Tail()
        head = Head(encoding=encoding.spec, classes=classes, codebook="0" * 64 if tail.codebook else None)
        tasks[encoding.spec] = functools.partial(encoding.encode, logits, head, rows, codebook=tail.codebook)
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(TIMED_RUNS):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            times[name].append((time.perf_counter() - began) * 1e3)
    torch.set_num_threads(threads)
    medians = {name: statistics.median(ms) for name, ms in times.items()}
    bound = medians["torch.topk(32) + torch.logsumexp"]
    return [{"encoding": name, "ms": ms, "ratio": ms / bound} for name, ms in medians.items()]


def time_checks(rows: int = 4096) -> list[tuple[str, float, float]]:
    """Milliseconds of each check of a chunk's columns, and of the plain NumPy that it stands for."""
    rng = np.random.default_rng(0)
    falling = -np.sort(rng.random((rows, 32)) * 10, axis=1).astype(np.float16)
    dense = rng.normal(size=(rows, 256)).astype(np.float16)
    counts = rng.integers(1, 20, rows).astype(np.uint16)
    ids = np.concatenate([rng.permutation(50_000)[:count] for count in counts]).astype(np.uint16)

    def falls() -> None:
        wide = falling.astype(np.float32)
        assert not np.isnan(wide).any()
        assert not (wide > 0).any()
        assert not (wide[:, 1:] > wide[:, :-1]).any()

    def repeats() -> None:
        row = np.repeat(np.arange(rows), counts)
        order = np.lexsort((ids, row))
        assert not ((np.diff(row[order]) == 0) & (np.diff(ids[order].astype(np.int64)) == 0)).any()

    tasks: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("falling log-probabilities, topk:32:f16", lambda: halves.all_negative_and_falling(falling), falls),
        ("finite logits, dense:f16 of 256", lambda: halves.all_finite(dense), lambda: np.isfinite(dense).all()),
        ("float32 of dense:f16 of 256", lambda: halves.widened(dense), lambda: dense.astype(np.float32)),
        ("distinct ids, adaptive", lambda: check_distinct(ids, counts), repeats),
    ]
    return [(name, _median_ms(check), _median_ms(plain)) for name, check, plain in tasks]


def _median_ms(task: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        task()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def report_checks(checks: list[tuple[str, float, float]]) -> None:
    """A table of milliseconds."""
    print("\n| check of 4,096 rows | ms | ms in plain NumPy | faster |\n|---|---:|---:|---:|")
    for name, check, plain in checks:
        print(f"| {name} | {check:.2f} | {plain:.2f} | {plain / check:.1f} |")


def mean_entropy(logits: Tensor) -> float:
    """Nats."""
    log_p = logits.log_softmax(-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())


def report(rows: list[Row], speeds: list[dict[str, object]], entropy: float, factor: float) -> None:
    """Tables for a person."""
    print(f"\nmean entropy of the language model: {entropy:.2f} nats; {ENTROPY} nats with logits times {factor:.2f}\n")
    for teacher in dict.fromkeys(row.teacher for row in rows):
        print(f"| {teacher} | bytes | ids | KL | error | bias |\n|---|---:|---:|---:|---:|---:|")
        for row in sorted((row for row in rows if row.teacher == teacher), key=lambda row: (row.family, row.bytes)):
            kl = f"{row.kl:.4f}" if np.isfinite(row.kl) and row.family == "exact" else "-"
            name = row.scheme if row.ours else f"*{row.scheme}*"
            print(f"| {name} | {row.bytes:.1f} | {row.ids:.1f} | {kl} | {row.error:.1e} | {row.bias:.1e} |")
        print()
    print("| teacher | ours beside | bytes at equal KL or error | KL or error at equal bytes |\n|---|---|---:|---:|")
    for goal in goals(rows):
        second = goal.get("kl_ratio", goal.get("error_ratio"))
        print(f"| {goal['teacher']} | {goal['rival']} | {goal['bytes_ratio']:.2f} | {second:.2f} |")
    report_speeds(speeds)


def report_speeds(speeds: list[dict[str, object]]) -> None:
    """A table of milliseconds."""
    print("\n| encoding | ms for 512 rows | of topk + logsumexp |\n|---|---:|---:|")
    for speed in speeds:
        print(f"| {speed['encoding']} | {speed['ms']:.1f} | {speed['ratio']:.2f} |")


def _series(row: Row) -> str:
    """Return the line of the plot that a scheme is on."""
    if not row.ours:
        return re.sub(r"^top-[0-9]+", "top-k", row.scheme).split(",")[0]
    family, *options = row.scheme.split(":")
    if family == "sampled":
        return family if len(options) == 1 else f"sampled, exponent {options[1]}"
    priors = f", {options[2]} priors" if len(options) > 2 else ""
    return f"topk, {options[1]}{priors}" if family == "topk" else family + priors


def plot(rows: list[Row], path: Path) -> None:
    """Bytes against KL and against error, for the language model."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6))
    for axis, family, distance, title in (
        (axes[0], "exact", "kl", "KL to the teacher, nats"), (axes[1], "unbiased", "error", "gradient error"),
    ):  # fmt: skip
        groups: dict[str, list[Row]] = {}
        for row in rows:
            if row.teacher == LANGUAGE and row.family == family:
                groups.setdefault(_series(row), []).append(row)
        for name, members in groups.items():
            members.sort(key=lambda row: row.bytes)
            style = {"marker": "o", "linewidth": 1.6} if members[0].ours else {"marker": "x", "linewidth": 1, "ls": ":"}
            axis.plot([r.bytes for r in members], [getattr(r, distance) for r in members], label=name, **style)
        axis.set(xscale="log", yscale="log", xlabel="bytes a token", title=title)
        axis.grid(visible=True, which="both", alpha=0.2)
        axis.legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
