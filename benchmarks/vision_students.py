"""Students of stored views, of the live teacher, and of labels that do not belong to their view; and of stored pixels.

    python benchmarks/vision_students.py [--seeds 3] [--only views | pixels] [--work FOLDER] [--json FILE]

Views: 400 of the bundled handwritten digits (real images of 8 x 8, resized to 16) with 100 views of each, a
convolutional teacher and a perceptron as the student. All arms of a seed start from the same weights and see the same
examples in the same order. They differ in the views they are shown and in their labels. Accuracy and the divergence
from the teacher are those of the 450 test images, without augmentation.

Pixels: road scenes of 32 x 48 and students of stored and of live outputs, with the same weights at the start, order and
steps. Mean IoU and angle error are those of test scenes; bytes per image are those of all shards.

Means and standard deviations are over seeds. Runs in ``--work`` that are complete are used again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import softlabels as sl
from softlabels.loading.view_replay import replay_of
from softlabels.models import Model
from softlabels.sources import Source, as_source, open_source
from softlabels.training import train_student, train_teacher
from softlabels.training.quality import evaluate

EXAMPLES, VIEWS, BATCH = 400, 100, 50
REUSED, FEW = 50, 5
SIZE = 16
POLICY = "randcrop:scale=0.4,erase:p=0.5"
TEACHER, ENCODING = "cnn:width=32,depth=2", "topk:4:q8"
HIDDEN, PEAK_LR = 64, 3e-3

SCENES = "roads:1000,size=32x48"
PIXEL_TEACHER, PIXEL_STUDENT = "unet:width=16,depth=4", "unet:width=8,depth=3"
PIXEL_ENCODINGS = ("dense:q8", "dense:f16", "topk:2:d4", "adaptive:0.01:d4")
PIXEL_RECIPE: dict[str, Any] = {
    "batch_size": 8,
    "loss": {"steering": "huber"},
    "weight": {"steering": 0.2, "*": 1.0},
}
TEACHER_RECIPE = {"lr": 3e-3, "steps": 1000}
STUDENT_RECIPE = {"lr": 6e-3, "steps": 600}

Row = dict[str, float]


@dataclass(frozen=True)
class Views:
    """Every view of every example, and its labels.

    Attributes:
        images: (examples, views, pixels) float32.
        live: Probabilities that the teacher predicts, (examples, views, classes).
        stored: Probabilities of the labels in the store, of the same shape.
        once: Probabilities of stored labels of the images without augmentation, (examples, classes).
        hard: Hard labels as probabilities, (examples, classes).
        bytes: Bytes of a stored view.
    """

    images: Tensor
    live: Tensor
    stored: Tensor
    once: Tensor
    hard: Tensor
    bytes: float


def as_features(images: Any) -> Tensor:
    """Return images of digits, whose pixels are 0 to 16, as the student takes them, (B, pixels) float32."""
    return torch.as_tensor(images).flatten(1).float() / 8 - 1


def make_views(digits: Source, teacher: Model, folder: Path) -> Views:
    """Return all views, labelled by ``generate`` and by the teacher."""
    rows = digits.split("train")[:EXAMPLES]
    original = open_source("digits")
    labels = np.asarray(original.labels(rows))
    few = as_source((original.inputs(rows), labels), size=SIZE)
    options: dict[str, Any] = {"teacher": teacher, "encoding": ENCODING, "gate": False}
    sl.generate(few, out=folder / "views", views=VIEWS, augment=POLICY, **options)
    sl.generate(few, out=folder / "once", **options)
    store = sl.open(folder / "views")
    replay = replay_of(store, few)
    if replay is None:
        raise TypeError("the store has no views")
    pixels = [replay.inputs(np.full(VIEWS, example), np.arange(VIEWS)) for example in range(EXAMPLES)]
    return Views(
        images=torch.stack([as_features(images) for images in pixels]),
        live=torch.stack([teacher.predict(images)["logits"].float().softmax(-1) for images in pixels]),
        stored=torch.as_tensor(store.read(np.arange(store.rows)).log_probs()).exp().reshape(EXAMPLES, VIEWS, -1),
        once=torch.as_tensor(sl.open(folder / "once").read(np.arange(EXAMPLES)).log_probs()).exp(),
        hard=functional.one_hot(torch.from_numpy(labels), 10).float(),
        bytes=store.bytes_per_row,
    )


def arms(views: Views) -> dict[str, tuple[int, Callable[[Tensor, int], Tensor]]]:
    """Return the arms by name: the number of different views, and a function from examples and view to labels."""
    return {
        "live teacher, a new view in each epoch": (VIEWS, lambda rows, view: views.live[rows, view]),
        "stored labels of the same views": (VIEWS, lambda rows, view: views.stored[rows, view]),
        f"stored labels, {REUSED} views used twice": (REUSED, lambda rows, view: views.stored[rows, view]),
        f"stored labels, {FEW} views used {VIEWS // FEW} times": (FEW, lambda rows, view: views.stored[rows, view]),
        "labels stored once, views not replayed": (VIEWS, lambda rows, _view: views.once[rows]),
        "hard labels": (VIEWS, lambda rows, _view: views.hard[rows]),
    }


def train_on_views(views: Views, different: int, labels: Callable[[Tensor, int], Tensor], seed: int) -> torch.nn.Module:
    """Return a perceptron that was trained for one epoch per view, on ``different`` views in turn."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    student = torch.nn.Sequential(torch.nn.Linear(SIZE**2, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, 10))
    optimizer = torch.optim.AdamW(student.parameters())
    steps = VIEWS * EXAMPLES // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    for epoch in range(VIEWS):
        view = epoch % different
        for rows in torch.randperm(EXAMPLES, generator=generator).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(student(views.images[rows, view]), labels(rows, view)).backward()
            optimizer.step()
            schedule.step()
    return student


def compare_views(folder: Path, seeds: int) -> dict[str, list[Row]]:
    """Return the figures of each arm and seed."""
    digits = open_source("digits", size=SIZE)
    teacher = train_teacher(digits, TEACHER, folder / "teacher", epochs=20)
    views = make_views(digits, teacher, folder)
    test = digits.split("test")
    images, truth = digits.inputs(test), torch.as_tensor(np.asarray(digits.labels(test)))
    predicted = teacher.predict(images)["logits"].float().softmax(-1)
    print(f"digits, {EXAMPLES} x {VIEWS} views of {POLICY}: {views.bytes:.1f} bytes per view ({ENCODING}); teacher "
          f"{float((predicted.argmax(-1) == truth).float().mean()):.2%}")  # fmt: skip
    figures: dict[str, list[Row]] = {}
    for name, (different, labels) in arms(views).items():
        for seed in range(seeds):
            student = train_on_views(views, different, labels, seed)
            with torch.no_grad():
                log_q = student(as_features(images)).log_softmax(-1)
            figures.setdefault(name, []).append(
                {
                    "accuracy, %": 100 * float((log_q.argmax(-1) == truth).float().mean()),
                    "KL to the teacher": float(functional.kl_div(log_q, predicted, reduction="batchmean")),
                }
            )
    return figures


def compare_pixels(folder: Path, seeds: int) -> dict[str, list[Row]]:
    """Return the figures of students of pixels, from each encoding and from the live teacher."""
    scenes = open_source(SCENES)
    teacher = train_teacher(scenes, PIXEL_TEACHER, folder / "pixel-teacher", **TEACHER_RECIPE, **PIXEL_RECIPE)
    sources: dict[str, Any] = {"live teacher": teacher}
    for spec in PIXEL_ENCODINGS:
        out = folder / f"pixels-{spec.replace(':', '-')}"
        sl.generate(scenes, teacher=teacher, out=out, encoding={"road": spec, "steering": "dense:f32"})
        store = sl.open(out)
        sources[f"stored {spec}, {store.bytes_per_row:,.0f} bytes per image"] = store
    figures: dict[str, list[Row]] = {"the teacher itself": [pixel_row(teacher, scenes)]}
    for name, labels in sources.items():
        for seed in range(seeds):
            out = folder / f"student-{name.split(',')[0].replace(' ', '-').replace(':', '-')}-{seed}"
            student = train_student(
                labels, scenes, PIXEL_STUDENT, out, seed=seed, alpha=1.0, **STUDENT_RECIPE, **PIXEL_RECIPE
            )
            figures.setdefault(name, []).append(pixel_row(student, scenes))
            print(f"{name}, seed {seed}: {figures[name][-1]}", flush=True)
    return figures


def pixel_row(model: Model, scenes: Source) -> Row:
    """Return the figures of a model on test scenes."""
    (quality,) = evaluate([model], [scenes], scenes.split("test"))
    road, steering = quality["road"], quality["steering"]
    return {"mean IoU, %": 100 * float(road.mean_iou or 0), "angle error, degrees": float(steering.error or 0)}


def print_table(figures: dict[str, list[Row]]) -> None:
    """Print means and standard deviations over seeds as a table."""
    names = list(next(iter(figures.values()))[0])
    print(f"| student | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    for arm, rows in figures.items():
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4g}{spread}")
        print(f"| {arm} | {' | '.join(cells)} |")


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["views", "pixels"])
    parser.add_argument("--work", type=Path, help="folder of runs and stores; a temporary one without it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        for name, compare in (("views", compare_views), ("pixels", compare_pixels)):
            if arguments.only in {None, name}:
                results[name] = compare(folder, arguments.seeds)
                print_table(results[name])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
