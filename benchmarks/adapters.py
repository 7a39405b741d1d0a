"""Cost of the other ways to take labels beside the plain loader: map-style, streams, mixtures, ensembles.

    python benchmarks/adapters.py [--rows 400000] [--seconds 3] [--rounds 3] [--json adapters.json]

Top-32 of 50,000 classes (lz4), shuffled, batches of 1,024 as torch tensors, verified, labels alone, from the page
cache. One process a reader and round, interleaved; medians of rows a second, and of the ratios to the loader of the
same round. Worker processes (forkserver) stay alive over the epochs, and the first 64 batches, among which they start,
are not counted. About three minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import readers
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler

import softlabels as sl
from softlabels.loading import Batch, Ensemble, Loader, Mixture, Part
from softlabels.loading.adapters.torch_datasets import LabelDataset, LabelStream, collate

CHILD = "--child"
BATCH = 1024
SKIPPED = 64
"""Batches before the clock starts."""
OURS = "loader"


def map_style(root: str, workers: int, *, windowed: bool) -> Iterable[Batch]:
    """A LabelDataset under a DataLoader, in the loader's order or in a global shuffle."""
    dataset = LabelDataset(sl.open(root))
    order: Sampler[int] = dataset.sampler() if windowed else RandomSampler(dataset)
    return DataLoader(
        dataset, batch_sampler=BatchSampler(order, BATCH, drop_last=False), collate_fn=collate, num_workers=workers,
        multiprocessing_context="forkserver" if workers else None, persistent_workers=workers > 0,
    )  # fmt: skip


def stream(root: str, workers: int) -> Iterable[Batch]:
    """A LabelStream under a DataLoader."""
    return DataLoader(
        LabelStream(Loader(sl.open(root), batch_size=BATCH)), batch_size=None, collate_fn=collate, num_workers=workers,
        multiprocessing_context="forkserver" if workers else None, persistent_workers=workers > 0,
    )  # fmt: skip


def one(labels: object, workers: int = 0) -> Iterable[Batch]:
    """The loader itself."""
    return sl.loader(labels, batch_size=BATCH, device="cpu", workers=workers).stream()  # type: ignore[arg-type]


READERS: dict[str, Callable[[str, str], Iterable[Batch]]] = {
    OURS: lambda a, _: one(sl.open(a)),
    "loader, 2 workers": lambda a, _: one(sl.open(a), workers=2),
    "LabelStream, DataLoader": lambda a, _: stream(a, 0),
    "LabelStream, DataLoader, 2 workers": lambda a, _: stream(a, 2),
    "LabelDataset, its sampler": lambda a, _: map_style(a, 0, windowed=True),
    "LabelDataset, its sampler, 2 workers": lambda a, _: map_style(a, 2, windowed=True),
    "LabelDataset, global shuffle": lambda a, _: map_style(a, 0, windowed=False),
    "LabelDataset, global shuffle, 2 workers": lambda a, _: map_style(a, 2, windowed=False),
    "Mixture of two": lambda a, b: one(Mixture([Part(sl.open(a)), Part(sl.open(b))])),
    "Ensemble of two": lambda a, b: one(Ensemble([sl.open(a), sl.open(b)])),
}


def child(name: str, first: str, second: str, seconds: str) -> None:
    """Read for some seconds, epoch after epoch, and print rows a second."""
    batches = READERS[name](first, second)
    rows, began = 0, 0.0
    # Epoch after epoch; what never ends is one.
    for number, batch in enumerate(itertools.chain.from_iterable(itertools.repeat(batches))):
        if number == SKIPPED:
            rows, began = 0, time.perf_counter()
        rows += len(batch)
        if began and time.perf_counter() - began >= float(seconds):
            break
    print(json.dumps((rows - BATCH) / (time.perf_counter() - began)))


def main() -> None:
    """Make, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000, help="of the store; of the second one as many")
    parser.add_argument("--seconds", type=float, default=3.0, help="of reading, a process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="readers whose names hold this, beside the loader")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108  no disk is measured here
    folder = Path(tempfile.mkdtemp(prefix="softlabels-adapters-", dir=memory if memory.is_dir() else None))
    names = [name for name in READERS if name == OURS or (arguments.only or "") in name]
    figures: dict[str, list[float]] = {name: [] for name in names}
    try:
        readers.make_raw(folder, "topk", arguments.rows)
        for name in ("first", "second"):
            readers.make_store(folder, "topk", name, "lz4")
        for _ in range(arguments.rounds):
            for name in names:
                command = [sys.executable, __file__, CHILD, name, str(folder / "first"), str(folder / "second"),
                           str(arguments.seconds)]  # fmt: skip
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{name}\n{done.stderr[-2000:]}")
                figures[name].append(json.loads(done.stdout.splitlines()[-1]))
    finally:
        shutil.rmtree(folder)
    figures = {
        name: {
            "rows_per_s": statistics.median(rates),
            "of_the_loader": statistics.median(np.array(rates) / np.array(figures[OURS])),
        }
        for name, rates in figures.items()
    }
    print("| reader | rows/s | of the loader |\n|---|---:|---:|")
    for name, row in figures.items():
        print(f"| {name} | {row['rows_per_s']:,.0f} | {row['of_the_loader']:.3f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(*sys.argv[2:])
    else:
        main()
