"""Measure the cost of ``generate`` beside the bare forward passes, and its memory.

    python benchmarks/generate.py [--repeats 5] [--seconds 20] [--json generate.json]

1. Wall time: a bare loop of the teacher over the same batches (inputs read from the same source, logits dropped)
   against ``generate`` (gate, encoding, verification of what was encoded, fsync, commits, sealing), interleaved;
   the ratio of the medians. The row count is chosen so that the bare loop takes ``--seconds``.
2. Memory: the anonymous memory (RssAnon) at its peak of a process that labels 10^4, 10^5 and 10^6 rows.

Goals: a ratio of at most 1.05; a peak at 10^6 rows within 10 % of that at 10^4.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

FEATURES = 64
CLASSES = 1000
MEMORY_CHILD = "--memory-child"


def write_data(path: Path, rows: int) -> None:
    """Random 8x8 images; an uncompressed .npz, so that the source maps it into memory."""
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.integers(0, 17, size=(rows, 8, 8), dtype=np.uint8))


def build_teacher(spec: str) -> object:
    """The teacher, with random weights: the speed is the same."""
    from softlabels import models

    return models.build(spec, input_shape=(8, 8), heads={"logits": models.OutputHead(classes=CLASSES)})


def bare_loop(path: Path, teacher: object, batch_size: int, rows: int) -> float:
    """Seconds for the teacher's forward passes over all batches, and nothing else."""
    from softlabels.sources import open_source

    source = open_source(path)
    began = time.perf_counter()
    for start in range(0, rows, batch_size):
        teacher.predict(source.inputs(np.arange(start, min(start + batch_size, rows))))  # type: ignore[attr-defined]
    return time.perf_counter() - began


def label(path: Path, teacher: object, batch_size: int, encoding: str, folder: Path) -> float:
    """Seconds for ``generate`` from the opened source to the sealed store."""
    from softlabels.generation import generate
    from softlabels.sources import open_source

    source = open_source(path)
    began = time.perf_counter()
    generate(source, teacher=teacher, out=folder, encoding=encoding, batch_size=batch_size)  # type: ignore[arg-type]
    return time.perf_counter() - began


def measure_time(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Interleaved runs of the bare loop and of ``generate``."""
    teacher = build_teacher(args.teacher)
    probe = folder / "probe.npz"
    write_data(probe, 4 * args.batch_size)
    bare_loop(probe, teacher, args.batch_size, 4 * args.batch_size)
    rate = 4 * args.batch_size / bare_loop(probe, teacher, args.batch_size, 4 * args.batch_size)
    rows = int(rate * args.seconds * 1.15) // args.batch_size * args.batch_size
    data = folder / "data.npz"
    write_data(data, rows)
    bare, ours = [], []
    for repeat in range(args.repeats):
        bare.append(bare_loop(data, teacher, args.batch_size, rows))
        ours.append(label(data, teacher, args.batch_size, args.encoding, folder / f"store-{repeat}"))
        print(f"run {repeat + 1}: bare {bare[-1]:.2f} s, generate {ours[-1]:.2f} s, ratio {ours[-1] / bare[-1]:.3f}")
    return {
        "rows": rows,
        "bare_s": statistics.median(bare),
        "generate_s": statistics.median(ours),
        "ratio": statistics.median(ours) / statistics.median(bare),
        "ratios": [own / forward for own, forward in zip(ours, bare, strict=True)],
    }


def peak_anonymous_memory(stop: threading.Event, peak: list[int]) -> None:
    """Poll RssAnon of this process (KiB) until told to stop."""
    while not stop.wait(0.02):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak[0] = max(peak[0], int(line.split()[1]))


def memory_child(path: Path, folder: Path, encoding: str) -> None:
    """Label ``path`` and print the peak of anonymous memory in bytes."""
    teacher = build_teacher("mlp:width=64,depth=1")
    stop, peak = threading.Event(), [0]
    watcher = threading.Thread(target=peak_anonymous_memory, args=(stop, peak))
    watcher.start()
    label(path, teacher, 1024, encoding, folder)
    stop.set()
    watcher.join()
    print(peak[0] * 1024)


def measure_memory(args: argparse.Namespace, folder: Path) -> dict[str, int]:
    """Peak anonymous memory by number of rows, each in a process of its own."""
    peaks = {}
    for rows in (10**4, 10**5, 10**6):
        data = folder / f"memory-{rows}.npz"
        write_data(data, rows)
        command = [sys.executable, __file__, MEMORY_CHILD, str(data), str(folder / f"memory-{rows}"), args.encoding]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[str(rows)] = int(output.split()[-1])
        print(f"{rows:>9,} rows: peak {peaks[str(rows)] / 2**20:.0f} MiB")
    return peaks


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the bare loop takes")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--teacher", default="cnn:width=128,depth=3")
    parser.add_argument("--encoding", default="topk:32")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timing = measure_time(args, folder)
        memory = measure_memory(args, folder)
    result = {
        "command": "python benchmarks/generate.py",
        "host": {"cores": os.cpu_count(), "python": platform.python_version()},
        "teacher": args.teacher,
        "encoding": args.encoding,
        "time": timing,
        "memory_bytes": memory,
        "memory_ratio": memory["1000000"] / memory["10000"],
    }
    print(f"generate over bare loop: {timing['ratio']:.3f} (median of {args.repeats}, {timing['rows']:,} rows)")
    print(f"peak memory, 10^6 over 10^4 rows: {result['memory_ratio']:.3f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [MEMORY_CHILD]:
        memory_child(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    else:
        main()
