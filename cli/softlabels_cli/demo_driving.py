"""The demonstration on road scenes: pixels and steering, their stored labels, and a student for one core."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from softlabels.models import Model

SCENES = 1000
"""Road scenes; every fifth is in the split test."""
LABELLED = 0.05
"""Share of the training scenes whose hard labels the students' team has."""
SIZE = "32x48"
"""Height and width of a scene in pixels."""
TEACHER, TEACHER_EPOCHS, TEACHER_LR = "unet:width=16,depth=4", 10, 0.003
STUDENT, STUDENT_EPOCHS, STUDENT_LR = "unet:width=8,depth=3", 12, 0.006
BATCH = 8
RATES = (10, 30)
"""Frames per second of cameras."""
SHOWN = 6
"""Scenes of the contact sheet."""
SCALE = 4
"""Enlargement of the contact sheet."""
COLOURS = ((120, 160, 220), (70, 120, 50), (90, 90, 95), (240, 230, 120), (200, 50, 50))
"""Colours of sky, terrain, road, marking and vehicle."""

SETTING = """\
The setting: a teacher (a U-Net) has learned from all training scenes what every pixel shows (sky, terrain, road,
marking, vehicle) and the steering angle. A student with a tenth of its parameters must run on one core of a car. Its
team has all images, but only 5 % of them with hard labels. Both students have the same architecture, the same hard
labels and the same number of steps; one of them also has the teacher's stored outputs for all images. The scenes are
rendered from a seed: no data set of real roads can be part of a package. Figures are on test scenes that no model was
trained on."""


def data_of(scenes: int) -> str:
    """Return the DATA of the demonstration.

    Args:
        scenes: Number of scenes.
    """
    return f"roads:{scenes},size={SIZE}"


def story(out: Path, seeds: int, scenes: int = SCENES) -> list[tuple[str, list[str]]]:
    """Return each command of the demonstration with its purpose.

    Args:
        out: Directory of all results.
        seeds: Number of students per setting.
        scenes: Number of scenes.
    """
    data, labels = data_of(scenes), f"{out}/labels"
    onnx, int8 = f"{out}/student.onnx", f"{out}/student-int8.onnx"
    trained = scenes * 4 // 5
    steps = max(1, STUDENT_EPOCHS * trained // BATCH)
    recipe = ["--batch-size", str(BATCH), "--loss", "steering=huber", "--weight", "steering=0.2"]
    hard_labels = max(1, round(LABELLED * trained))
    few = ["--lr", str(STUDENT_LR), "--steps", str(steps), "--hard-labels", str(hard_labels)]
    soft = [f"{out}/student-soft-{seed}" for seed in range(seeds)]
    hard = [f"{out}/student-hard-{seed}" for seed in range(seeds)]
    models = [f"run:{out}/teacher", *(f"run:{run}" for run in (*soft, *hard)), f"onnx:{onnx}", f"onnx:{int8}"]
    return [
        ("Train a teacher on all hard labels: classes of pixels and steering angles.",
         ["train-teacher", data, "--model", TEACHER, "--epochs", str(TEACHER_EPOCHS), "--lr", str(TEACHER_LR), *recipe,
          "--out", f"{out}/teacher"]),
        ("Run it once over the images; store 8 bits for each class of each pixel, and the angle in float32.",
         ["generate", data, "--teacher", f"run:{out}/teacher", "--out", labels, "--encoding", "road=dense:q8",
          "--encoding", "steering=dense:f32"]),
        ("What is in the store?", ["inspect", labels]),
        *(("Train a student from the soft labels of both heads; the teacher is not needed.",
           ["train-student", labels, "--data", data, "--student", STUDENT, *recipe, *few, "--seed", str(seed), "--out",
            run]) for seed, run in enumerate(soft)),
        *(("The same student from 5 % of the hard labels only.",
           ["train-teacher", data, "--model", STUDENT, *recipe, *few, "--seed", str(seed), "--out", run])
          for seed, run in enumerate(hard)),
        ("Export the student for a runtime without torch, checked on test scenes.",
         ["export-model", f"run:{soft[0]}", "--data", data, "--out", onnx]),
        ("The same with 8-bit weights and activations, whose ranges come from training scenes.",
         ["export-model", f"run:{soft[0]}", "--data", data, "--out", int8, "--int8"]),
        ("What was gained?", ["compare", *models, "--data", data]),
    ]  # fmt: skip


def finish(out: Path, scenes: int = SCENES) -> None:
    """Print the frames per second of the student, and write the contact sheet.

    Args:
        out: Directory of all results.
        scenes: Number of scenes.
    """
    import numpy as np

    from softlabels.models import as_model, measure_cost
    from softlabels.sources import open_source

    source = open_source(data_of(scenes))
    rows = source.split("test")[:SHOWN]
    images = source.inputs(rows)
    specs = {
        "teacher": f"run:{out}/teacher",
        "soft labels": f"run:{out}/student-soft-0",
        "hard labels": f"run:{out}/student-hard-0",
        "ONNX": f"onnx:{out}/student.onnx",
        "ONNX int8": f"onnx:{out}/student-int8.onnx",
    }
    models = {name: as_model(spec, sample=images) for name, spec in specs.items()}
    for name in ("soft labels", "ONNX", "ONNX int8"):
        cost = measure_cost(models[name], images[:1])
        rate = 1e3 / cost.latency_ms
        verdicts = ", ".join(f"{hertz} Hz {'yes' if cost.latency_p99_ms < 1e3 / hertz else 'no'}" for hertz in RATES)
        click.echo(
            f"student, {name}: {rate:,.0f} frames per second on one core, p50 {cost.latency_ms:.2f} ms, p99 "
            f"{cost.latency_p99_ms:.2f} ms; fast enough for {verdicts}"
        )
    truth = np.asarray(source.target("road", rows)), np.asarray(source.target("steering", rows))[:, 0]
    panels = [_panels(images, None), _panels(_coloured(truth[0]), truth[1])]
    panels += [_predicted(models[name], images) for name in ("teacher", "soft labels", "hard labels")]
    sheet = np.concatenate([np.concatenate(list(column)) for column in panels], axis=1)
    (out / "contact-sheet.png").write_bytes(png(sheet))
    click.echo(f"{out}/contact-sheet.png: image, ground truth, teacher, student from soft labels, and from hard ones")


def _predicted(model: Model, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    outputs = model.predict(images)
    classes = outputs["road"].argmax(-1).cpu().numpy()
    return _panels(_coloured(classes), outputs["steering"][:, 0].cpu().numpy())


def _coloured(classes: NDArray[Any]) -> NDArray[np.uint8]:
    import numpy as np

    colours = np.array(COLOURS, np.uint8)
    return np.asarray(colours[classes])


def _panels(images: NDArray[np.uint8], angles: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Return enlarged images with a white border, each with its steering angle as a line from below."""
    import numpy as np

    panels = images.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    height, width = panels.shape[1:3]
    for panel, angle in zip(panels, [] if angles is None else angles, strict=False):
        length = np.arange(height // 2)
        columns = np.round(width / 2 + length * np.tan(np.radians(3 * float(angle)))).astype(int)  # three times as far
        for shift in (-1, 0, 1):
            inside = (columns + shift >= 0) & (columns + shift < width)
            panel[height - 1 - length[inside], columns[inside] + shift] = 255
    return np.pad(panels, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)


def png(image: NDArray[np.uint8]) -> bytes:
    """Return an image as a PNG file.

    Args:
        image: (H, W, 3) uint8.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = image.shape[:2]
    lines = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
