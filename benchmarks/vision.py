"""Cost of labels of views: ``generate`` over the bare forward pass, a student's epoch over hard labels, bytes per view.

    python benchmarks/vision.py [--images 512] [--views 4] [--size 224] [--width 64] [--turns 7]
    python benchmarks/vision.py --only bytes --images 60 --views 50 --teacher python:MODULE:NAME

Images are JPEG files of 320 x 400 pixels, cut at seeded places from the photographs that scikit-image and scikit-learn
bundle (BSD licence and public domain), or road scenes without them; the first line says which. Networks have random
weights, which cost what trained ones do, and use one thread each, so that other cores decode.

Both forms of a loop take turns, and the median of the ratios counts. CPU time stands a machine that has other work:
the teacher's thread alone, and for students all threads of the process. Wall time does not, and is printed beside it.
Bytes are those of a further view in a shard, keys included: the difference of two stores. TinyViT (Wu et al. 2022)
stores ten classes of a view in 40 bytes and a seed in 4, and spreads the remaining mass evenly; its KL is that of the
same logits. A random network says nothing about bytes, so ``--teacher`` names a trained one of 1,000 classes. Its
outputs are computed once and encoded several times.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import softlabels as sl
from softlabels.loading.view_replay import replay_of
from softlabels.models import Model, as_model
from softlabels.sources import Source, open_source
from softlabels.sources.roads import render
from softlabels.sources.view_inputs import ViewInputs, record_views

BATCH = 64
HEIGHT, WIDTH = 320, 400
CLASSES = 1000
LISTED, TINYVIT_BYTES = 10, 44
POLICY = "randcrop,flip,color"
ENCODINGS = (
    "topk:10", "topk:10:d4", "topk:8:d4", "topk:8:d2", "topk:7:d2", "topk:6:d2:64", "adaptive:0.01:d4",
    "adaptive:0.015:d4:4", "adaptive:0.02:d4:4", "adaptive:0.01:d2:64", "counts:20", "threshold:0.05",
)  # fmt: skip
PHOTOGRAPHS = {
    "skimage": ("data", "astronaut camera chelsea coffee coins grass horse motorcycle_left motorcycle_right rocket"),
    "sklearn": ("datasets/images", "china flower"),
}
"""Folder and names of the photographs in each package."""

Predict = Callable[[Any], torch.Tensor]


def photographs() -> tuple[str, list[NDArray[np.uint8]]]:
    """Return the origin of pictures to cut from, and the pictures."""
    pictures, packages = [], []
    for package, (folder, names) in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            packages.append(package)
            paths = sorted(Path(spec.origin).parent.joinpath(folder).iterdir())
            pictures += [np.array(Image.open(p).convert("RGB")) for p in paths if p.stem in names.split()]
    if pictures:
        return f"{len(pictures)} photographs of {' and '.join(packages)}", pictures
    return "road scenes", [render(number, height=640, width=800).image for number in range(4)]


def write_images(folder: Path, count: int) -> str:
    """Write JPEG files in folders of two classes, and return the origin of the pictures."""
    origin, pictures = photographs()
    generator = np.random.default_rng(0)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        height, width = min(HEIGHT, picture.shape[0]), min(WIDTH, picture.shape[1])
        y, x = (
            int(generator.integers(0, side - cut + 1))
            for side, cut in zip(picture.shape, (height, width), strict=False)
        )
        path = folder / f"class {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[y : y + height, x : x + width]).save(path, quality=90)
    return origin


def network(width: int) -> Predict:
    """Return a convolutional network from (B, H, W, 3) uint8 to logits with about one nat of entropy."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    channels = 3
    for scale in (1, 2, 4, 8):
        layers += [torch.nn.Conv2d(channels, width * scale, 3, stride=2, padding=1), torch.nn.ReLU()]
        channels = width * scale
    module = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    head = torch.nn.Linear(channels, CLASSES)
    module.eval()

    def predict(images: Any) -> torch.Tensor:
        with torch.inference_mode():
            features = module(torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255)
            features = torch.nn.functional.layer_norm(features, features.shape[1:])
            logits: torch.Tensor = head(features) * 8
            return logits

    return predict


def clocks() -> NDArray[np.float64]:
    """Return wall time, CPU time of this thread, and CPU time of the process, in seconds."""
    return np.array([time.perf_counter(), time.thread_time(), time.process_time()])


def spent(work: Callable[[], object]) -> NDArray[np.float64]:
    """Return the three times of one run."""
    began = clocks()
    work()
    return clocks() - began


def shown(ratios: list[float]) -> str:
    """Return the median of ratios with their range."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def measure_generate(source: Source, predict: Predict, views: int, turns: int, folder: Path) -> None:
    """Print the times of generate over those of the bare forward pass on the same number of views."""
    batch = torch.from_numpy(np.repeat(source.inputs(np.arange(1)), BATCH, axis=0))
    count = len(source) * views

    def forward() -> None:
        for start in range(0, count, BATCH):
            predict(batch[: count - start])

    options: dict[str, Any] = {"views": views, "augment": POLICY, "batch_size": BATCH, "encoding": "topk:10"}
    times = []
    for turn in range(turns):
        bare = spent(forward)
        out = folder / f"labels-{turn}"
        times.append(
            (bare, spent(lambda out=out: sl.generate(source, teacher=predict, out=out, gate=False, **options)))
        )
    thread, wall = ([own[clock] / bare[clock] for bare, own in times] for clock in (1, 0))
    others = [(own[2] - own[1]) / bare[1] for bare, own in times]
    print(
        f"generate {count:,} views over the bare forward pass, {turns} turns: teacher's thread {shown(thread)}, goal "
        f"1.05; decoding, views and encoding need {statistics.median(others):.2f} more cores; wall time {shown(wall)}"
    )


def measure_student(source: Source, turns: int, folder: Path) -> None:
    """Print the times of an epoch from stored views over those with hard labels and the same views."""
    store = sl.open(folder / "labels-0")
    replay = replay_of(store, source)
    if replay is None:
        raise TypeError("the store has no views")
    student = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(32, CLASSES),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(student.parameters())
    loader = sl.loader(store, inputs=source, views="one", batch_size=BATCH, device="cpu")

    def step(images: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        optimizer.zero_grad()
        loss(student(images.permute(0, 3, 1, 2).float() / 255)).backward()
        optimizer.step()

    def soft() -> None:
        for batch in loader.epoch(0):
            step(batch.inputs, functools.partial(sl.losses.kl, labels=batch.targets["logits"]))

    def hard() -> None:
        for images, labels in hard_batches(source, lambda rows: replay.inputs(rows, np.zeros(len(rows), np.int64))):
            step(images, functools.partial(torch.nn.functional.cross_entropy, target=labels))

    soft(), hard()
    times = [(spent(hard), spent(soft)) for _ in range(turns)]
    process, wall = ([own[clock] / bare[clock] for bare, own in times] for clock in (2, 0))
    print(
        f"student's epoch of {len(source):,} images, stored views over hard labels, {turns} turns: CPU time "
        f"{shown(process)}, goal 1.05; wall time {shown(wall)}"
    )


def hard_batches(
    source: Source, inputs: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield shuffled images with hard labels; a thread reads them one batch ahead."""
    order = np.random.default_rng(0).permutation(len(source))
    chunks = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(inputs, chunks[0])
        for rows, following in zip(chunks, [*chunks[1:], None], strict=True):
            pixels = ahead.result()
            if following is not None:
                ahead = pool.submit(inputs, following)
            yield torch.from_numpy(pixels), torch.from_numpy(np.asarray(source.labels(rows)))


def predict_views(source: Source, predict: Predict, views: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the logits of all views, (examples, views, classes), and the keys of the examples."""
    replay = ViewInputs(source, record_views(source, count=views, policy=POLICY, seed=0))
    rows = [predict(replay.inputs(np.full(views, example), np.arange(views))) for example in range(len(source))]
    return torch.stack(rows).float().numpy(), np.array(source.keys())


def measure_bytes(logits: NDArray[np.float32], keys: NDArray[np.uint8], folder: Path) -> None:
    """Print bytes per view and KL of each encoding, beside TinyViT's on the same logits.

    Priors and targets are fitted to the views of the first half of the images; those of the second half are stored.
    """
    half = len(logits) // 2
    pilot, stored = logits[:half].reshape(-1, CLASSES), logits[half:]
    log_p = torch.from_numpy(stored.reshape(-1, CLASSES)).log_softmax(-1)
    print(f"{len(log_p):,} views of {len(stored)} images, fitted to {len(pilot):,} views of others")
    print(f"| encoding | bytes per view | KL | error | same top class |\n|---|---:|---:|---:|---:|\n{tinyvit(log_p)}")
    for encoding in ENCODINGS:
        head = sl.Head(classes=CLASSES, encoding=encoding)
        few, store = (
            write_store(folder / f"{encoding.replace(':', '-')}-{count}", head, pilot, stored[:count], keys[half:])
            for count in (len(stored) // 2, len(stored))
        )
        own = store.heads["logits"].encoding
        name = own if own == encoding else f"{own} ({encoding})"
        further = (store.bytes - few.bytes) / (store.rows - few.rows)
        labels = store.read(np.arange(store.rows))
        print(table_row(name, further, log_p, torch.as_tensor(labels.log_probs())), flush=True)
    print(f"a shard takes {store.bytes - further * store.rows:,.0f} bytes more, however many views it holds")


def write_store(
    out: Path, head: sl.Head, pilot: NDArray[np.float32], logits: NDArray[np.float32], keys: NDArray[np.uint8]
) -> sl.store.Store:
    """Return a store of (examples, views, classes) logits."""
    examples, views, _ = logits.shape
    with sl.create(out, heads={"logits": head}, pilot={"logits": pilot}) as writer:
        names = np.repeat(keys[:examples], views, axis=0)
        writer.append(
            names, {"logits": logits.reshape(-1, CLASSES)}, views=np.tile(np.arange(views), examples).tolist()
        )
    return sl.open(out)


def tinyvit(log_p: torch.Tensor) -> str:
    """Return TinyViT's labels, ten classes and an even remainder, as a row of the table."""
    top = log_p.topk(LISTED)
    rest = (1 - top.values.exp().sum(1, keepdim=True)).clamp_min(1e-30) / (log_p.shape[1] - LISTED)
    log_q = rest.log().expand_as(log_p).scatter(1, top.indices, top.values)
    return table_row("TinyViT, ten classes", TINYVIT_BYTES, log_p, log_q)


def table_row(name: str, size: float, log_p: torch.Tensor, log_q: torch.Tensor) -> str:
    """Return the figures of labels as a row of the table."""
    p, q = log_p.exp(), log_q.exp()
    kl = float(torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1).mean())
    error = float((p - q).square().sum(1).mean())
    same = float((log_p.argmax(1) == log_q.argmax(1)).float().mean())
    return f"| {name} | {size:.1f} | {kl:.3f} | {error:.1e} | {same:.1%} |"


def first_head(model: Model, images: Any) -> torch.Tensor:
    """Return the output of a model with one head."""
    return next(iter(model.predict(images).values()))


def main() -> None:
    """Parse the command line and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 512), ("views", 4), ("size", 224), ("width", 64), ("turns", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--teacher", help="MODEL of 1,000 classes whose labels are measured; random weights without it")
    parser.add_argument("--only", choices=["times", "bytes"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        origin = write_images(folder / "photos", arguments.images)
        print(f"{arguments.images} JPEG files of {HEIGHT} x {WIDTH} from {origin}", flush=True)
        source = open_source(folder / "photos", size=arguments.size)
        predict = network(arguments.width)
        if arguments.only != "bytes":
            measure_generate(source, predict, arguments.views, arguments.turns, folder)
            measure_student(source, arguments.turns, folder)
        if arguments.only != "times":
            if arguments.teacher is not None:
                model = as_model(arguments.teacher, sample=source.inputs(np.arange(1)))
                predict = functools.partial(first_head, model)
            measure_bytes(*predict_views(source, predict, arguments.views), folder)


if __name__ == "__main__":
    main()
