"""Gain of the two devices that the loader has for speed alone: reused buffers and packed sorts.

    python benchmarks/buffers.py [--rounds 5] [--json buffers.json]

1. Reused buffers (``softlabels/loading/buffer_pool.py``): rows per second of a store of top-32 that fits into memory,
   with the pool and with fresh memory for every block of rows, in processes of their own, in turn.
2. Packed sorts (``permutation`` in ``order/shuffle.py`` and ``_ascending`` in ``averaging.py``): seconds of a sort with
   the position in the lower bits, and of NumPy's stable argsort of the same words.

Prints medians and the ratio over paired rounds; about a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import readers

from softlabels.loading import averaging, buffer_pool
from softlabels.loading.order import shuffle
from softlabels.rng import philox_words

CHILD = "--child"
ROWS = 400_000
SECONDS = 2.0
WINDOW_ROWS = 262_144
"""Rows of a window of 64 full chunks."""


def child(root: str, reuse: str) -> None:
    """Measure rows per second, and CPU seconds per million rows, of the epochs after the first one."""
    import softlabels as sl

    if reuse == "no":
        buffer_pool.BufferPool.empty = _fresh  # type: ignore[method-assign]
    loader = sl.loader(sl.open(root), batch_size=1024, seed=0, device="cpu")
    for _ in loader.epoch(0):
        pass
    rows, began, cpu = 0, time.perf_counter(), time.process_time()
    for batch in loader.stream(len(loader)):
        rows += len(batch)
        if time.perf_counter() - began > SECONDS:
            break
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"rows_per_s": rows / seconds, "cpu_s_per_million": cpu / rows * 1e6}))


def _fresh(_: buffer_pool.BufferPool, name: str, shape: tuple[int, ...], dtype: object) -> np.ndarray:
    del name
    return np.empty(shape, np.dtype(dtype))  # type: ignore[call-overload,no-any-return]


def pool(root: Path, rounds: int) -> dict[str, float]:
    """Measure the loader with and without reused buffers, in turn."""
    runs: dict[str, list[dict[str, float]]] = {"yes": [], "no": []}
    for _ in range(rounds):
        for reuse, results in runs.items():
            command = [sys.executable, __file__, CHILD, str(root), reuse]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    with_pool, without = ([run["rows_per_s"] for run in runs[reuse]] for reuse in ("yes", "no"))
    cpu = [run["cpu_s_per_million"] for run in runs["no"]], [run["cpu_s_per_million"] for run in runs["yes"]]
    return {
        "with": statistics.median(with_pool),
        "without": statistics.median(without),
        "gain": statistics.median(a / b for a, b in zip(with_pool, without, strict=True)),
        "gain_cpu": statistics.median(a / b for a, b in zip(*cpu, strict=True)),
    }


def sorts(rounds: int) -> dict[str, dict[str, float]]:
    """Measure both packed sorts beside a stable argsort of the same numbers."""
    words = philox_words(WINDOW_ROWS, 0, 0, 1)
    rows = np.random.default_rng(0).integers(0, 50_000, (4096, 64))
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "permutation of a window": (
            lambda: shuffle.permutation(WINDOW_ROWS, 0, 0, 1),
            lambda: np.argsort(philox_words(WINDOW_ROWS, 0, 0, 1), kind="stable"),
        ),
        "rows of 64 classes": (
            lambda: averaging._ascending(rows.copy()),  # noqa: SLF001  what is measured
            lambda: np.argsort(rows, axis=1, kind="stable"),
        ),
    }
    if not np.array_equal(shuffle.permutation(WINDOW_ROWS, 0, 0, 1), np.argsort(words, kind="stable")):
        raise RuntimeError("the packed sort gives another order")
    results = {}
    for name, functions in pairs.items():
        times = [[_seconds(function) for function in functions] for _ in range(rounds)]
        packed, plain = (statistics.median(column) for column in zip(*times, strict=True))
        results[name] = {"with": packed, "without": plain, "gain": statistics.median(b / a for a, b in times)}
    return results


def _seconds(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        readers.make_raw(folder, "topk", ROWS)
        readers.make_store(folder, "topk", "lz4", "lz4")
        figures["reused buffers, rows/s"] = pool(folder / "lz4", arguments.rounds)
    figures |= sorts(max(arguments.rounds, 5))
    print("| device | with | without | gain |\n|---|---:|---:|---:|")
    for name, one in figures.items():
        print(f"| {name} | {one['with']:.4g} | {one['without']:.4g} | {one['gain']:.2f} |")
    print(f"CPU seconds per row with fresh memory: {figures['reused buffers, rows/s']['gain_cpu']:.2f} times")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(*sys.argv[2:])
    else:
        main()
