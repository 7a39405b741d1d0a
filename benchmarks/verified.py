"""Measure the cost of verifying: chunks, rows and an epoch with every byte hashed, over the same without.

    python benchmarks/verified.py [--rows 131072] [--json verified.json]

Both run in one process, in turn, from memory; the one without puts a method in the place of the reader's that reads the
range and does not hash it. Values are looked at once a chunk in both (docs/FORMAT.md, section 8).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import softlabels as sl
from softlabels.labels import Head
from softlabels.store import DataRecord, Descriptor, Store, TeacherRecord, create_or_open, unit_reader
from softlabels.store.format.record import Range

CLASSES = 1000
TURNS = 31


def make(root: Path, rows: int, shard_format: str, codec: str, encoding: str) -> Store:
    """A sealed store of random labels."""
    rng = np.random.default_rng(0)
    store = create_or_open(
        root,
        Descriptor(
            rows=rows, unit_rows=16_384, chunk_rows=4096 if encoding.startswith("topk") else 512, codec=codec,
            heads={"logits": Head(encoding=encoding, classes=CLASSES)}, shard_format=shard_format,
            teacher=TeacherRecord(spec="t", digest="d"), data=DataRecord(spec="x", fingerprint="f", rows=rows),
        ),
    )  # fmt: skip
    for unit in list(store.missing()):
        count = len(store.descriptor.unit_range(unit))
        columns = {
            "key": rng.integers(0, 256, (count, 16), dtype=np.uint8), "view": np.zeros(count, np.uint32),
        }  # fmt: skip
        if encoding.startswith("topk"):
            columns["logits/ids"] = np.argsort(rng.random((count, CLASSES), np.float32), axis=1)[:, :32].astype(
                np.uint16
            )
            values = -np.sort(rng.exponential(3, (count, 32)), axis=1)
            columns |= {"logits/values": values.astype(np.float16), "logits/tail": np.full((count, 1), -1, np.float32)}
        else:
            columns["logits/values"] = rng.normal(size=(count, CLASSES)).astype(np.float16)
        with store.begin(unit) as writer:
            writer.append(columns)
            writer.commit()
    sl.seal(root)
    return sl.open(root)


def unverified(self: unit_reader.UnitReader, span: Range) -> memoryview:
    """As the reader's own, without the hash."""
    data = unit_reader._scratch(span.size)  # noqa: SLF001  what is measured is that method without one line
    self._storage.read_range(self.name, span.offset, data, of=self.record.size)
    return data


def ratio(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds with the hash over those without, median of turns that have one of each, and the seconds with it."""
    real = unit_reader.UnitReader._verified  # noqa: SLF001
    seconds: dict[bool, list[float]] = {True: [], False: []}
    run()
    for turn in range(TURNS):
        for hashed in (True, False) if turn % 2 else (False, True):
            unit_reader.UnitReader._verified = real if hashed else unverified  # type: ignore[method-assign]  # noqa: SLF001
            began = time.perf_counter()
            run()
            seconds[hashed].append(time.perf_counter() - began)
    unit_reader.UnitReader._verified = real  # type: ignore[method-assign]  # noqa: SLF001
    ratios = [one / other for one, other in zip(seconds[True], seconds[False], strict=True)]
    return statistics.median(ratios), statistics.median(seconds[True])


def measure(store: Store) -> dict[str, float]:
    """The three ways to read."""
    rows = np.sort(np.random.default_rng(1).choice(store.rows, 4096, replace=False))

    def chunks() -> None:
        for number in range(store.chunks):
            store.read_chunk(number)

    def epoch() -> None:
        for _ in sl.loader(store, batch_size=256, seed=0):
            pass

    figures = {}
    for name, run in (("chunks", chunks), ("rows", lambda: store.read(rows)), ("loader", epoch)):
        figures[name], figures[f"{name}_s"] = ratio(run)
    return figures


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108  no disk is measured here
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    figures: dict[str, dict[str, float]] = {}
    print(f"{'store':<24}{'chunks':>9}{'rows':>9}{'loader':>9}   verified over unverified")
    try:
        for shard_format, codec, encoding in (
            ("zarr", "zstd", "topk:32:f16"), ("zarr", "lz4", "topk:32:f16"), ("parquet", "zstd", "topk:32:f16"),
            ("zarr", "zstd", "dense:f16"),
        ):  # fmt: skip
            name = f"{shard_format} {codec} {encoding}"
            rows = arguments.rows if encoding.startswith("topk") else arguments.rows // 4
            figures[name] = measure(make(folder / "store", rows, shard_format, codec, encoding))
            shutil.rmtree(folder / "store")
            print(f"{name:<24}" + "".join(f"{figures[name][way]:>9.3f}" for way in ("chunks", "rows", "loader")))
    finally:
        shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
