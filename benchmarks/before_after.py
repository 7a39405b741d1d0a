"""Compare the speed of this tree with that of an earlier commit, in turns, so that both see the same machine.

    python benchmarks/before_after.py COMMIT [--turns 10] [--pairs 3] [--only NAME] [--store NAME]
                                             [--benchmarks] [--quick]

Two processes hold one tree each and take turns: each turn runs one operation in both, in alternating order, on stores
that each tree has written itself. The table has the CPU seconds of all threads and the speed of this tree over that of
the commit: the median over turns of the ratio, so 0.97 is 3 % slower. Only names that both trees have are used.
Where the memory of a store and of a process lies is worth a tenth and more, so there are several pairs of processes.

With ``--benchmarks`` the scripts generate.py, scale.py, memory.py, readers.py and adapters.py of both trees run too,
each with its own JSON; figures of the same name are compared. Options of those scripts may differ between commits
(readers.py reads windows of 16 chunks since November 2026), so the turns are what counts for windows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CHILD = "child"
CLASSES, ROWS = 1000, 32_768
STORES = {
    "topk:32, lz4": ("topk:32", "lz4"),
    "topk:32:d4, zstd": ("topk:32:d4", "zstd"),
    "dense:f16, lz4": ("dense:f16", "lz4"),
    "adaptive:0.005, zstd": ("adaptive:0.005", "zstd"),
    "threshold:0.05, zstd": ("threshold:0.05", "zstd"),
}
BENCHMARKS: dict[str, tuple[list[str], list[str]]] = {
    "generate": ([], ["--repeats", "1", "--seconds", "2"]),
    "scale": ([], ["--units", "2000"]),
    "memory": ([], ["--limit", "384"]),
    "readers": (["--rounds", "3"], ["--quick", "--seconds", "0.5"]),
    "adapters": ([], ["--rows", "50000", "--seconds", "0.5", "--rounds", "1"]),
}
"""Options of a full and of a quick run."""


def operations(root: Path, encoding: str, codec: str) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name, on a store that is written first; runs in the process of one tree."""
    import numpy as np
    import torch

    import softlabels as sl
    from softlabels.sources import open_source

    try:
        from softlabels.loading.adapters.torch_datasets import LabelDataset
    except ImportError:  # before the layout of November 2026
        from softlabels.loading.datasets import LabelDataset

    torch.set_num_threads(1)
    logits = np.random.default_rng(0).standard_normal((ROWS, CLASSES), np.float32) * 3
    with sl.create(
        root / "labels", heads={"logits": sl.Head(classes=CLASSES, encoding=encoding)}, codec=codec, unit_rows=8192
    ) as writer:
        for start in range(0, ROWS, 1024):
            block = logits[start : start + 1024]
            writer.append([str(row) for row in range(start, start + 1024)], {"logits": block})
    np.savez(root / "data.npz", x=logits[:10_000, :64])
    source, teacher = open_source(root / "data.npz", input="x"), torch.nn.Linear(64, CLASSES)
    store = sl.open(root / "labels")
    order = np.random.default_rng(1).permutation(ROWS)
    resident, dataset = sl.loader(store, batch_size=1024, seed=0, device="cpu"), LabelDataset(store)
    windows = sl.loader(store, batch_size=1024, seed=0, device="cpu", window=2, memory=2**22)

    def first_reading() -> None:
        opened = sl.open(root / "labels")
        for chunk in range(opened.chunks):
            opened.read_chunk(chunk)

    def generate() -> None:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            sl.generate(source, teacher=teacher, out=f"{folder}/labels", encoding=encoding)

    return {
        "first reading of every chunk": first_reading,
        "reading every chunk again": lambda: [store.read_chunk(chunk) for chunk in range(store.chunks)],
        "2,048 scattered rows": lambda: store.read(order[:2048]),
        "first epoch of the loader": lambda: consume(
            sl.loader(sl.open(root / "labels"), batch_size=1024, device="cpu")
        ),
        "later epoch of the loader": lambda: consume(resident),
        "epoch in windows of 2 chunks": lambda: consume(windows),
        "LabelDataset, 32 scattered batches": lambda: consume(
            dataset.__getitems__(batch.tolist()) for batch in order[:8192].reshape(32, -1)
        ),
        "generate, a small teacher": generate,
        "verify": lambda: sl.verify(root / "labels"),
    }


def consume(batches: Iterable[object]) -> None:
    """Drop each batch before the next one, as training does; held batches would measure the allocator instead."""
    for batch in batches:
        del batch


def child(folder: str, store: str) -> None:
    """Run operations by the names that standard input has, and print the CPU seconds of each."""
    named = operations(Path(folder), *STORES[store])
    print(json.dumps(list(named)), flush=True)
    for line in sys.stdin:
        began = time.process_time()
        named[line.strip()]()
        print(time.process_time() - began, flush=True)


@contextlib.contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """Check out a commit in a folder of its own for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def environment(tree: Path) -> dict[str, str]:
    """Return the variables under which Python imports the package of a tree.

    glibc returns freed memory to the system or retains it, depending on the sizes that were freed before. The page
    faults of that are up to a third of the time of an operation, so both processes retain it.
    """
    return {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "OMP_NUM_THREADS": "1",
            "MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28),
            "PYTHONPATH": f"{tree}:{tree / 'cli'}"}  # fmt: skip


def compare_store(before: Path, store: str, turns: int, only: str, pairs: int) -> None:
    """Print the rows of the table for one store: medians over pairs of processes of the medians over turns."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for pair in range(pairs):
        for name, seconds in take_turns(before, store, turns, only, starts_later=pair % 2 == 1).items():
            first, second = (1e3 * statistics.median(turn[index] for turn in seconds) for index in (0, 1))
            rows.setdefault(name, []).append((first, second, statistics.median(a / b for a, b in seconds)))
    for name, figures in rows.items():
        first, second, ratio = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"| {store} | {name} | {first:.2f} | {second:.2f} | {ratio:.3f} |", flush=True)


def take_turns(
    before: Path, store: str, turns: int, only: str, *, starts_later: bool
) -> dict[str, list[tuple[float, float]]]:
    """Return the CPU seconds of each operation in both trees, turn by turn."""
    seconds = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:  # noqa: S108
        processes = []
        trees = [("before", before), ("after", ROOT)]
        for name, tree in trees[::-1] if starts_later else trees:
            (Path(folder) / name).mkdir()
            command = [sys.executable, "-P", __file__, CHILD, f"{folder}/{name}", store]
            processes.append(subprocess.Popen(
                command, cwd=tree, env=environment(tree), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ))  # fmt: skip
        names, _ = (json.loads(process.stdout.readline()) for process in processes)  # type: ignore[union-attr]
        processes = processes[::-1] if starts_later else processes
        for name in [name for name in names if only in name]:
            seconds[name] = [_turn(processes, name, turn % 2) for turn in range(turns + 1)][1:]
        for process in processes:
            process.communicate()
    return seconds


def _turn(processes: list[subprocess.Popen[str]], name: str, first: int) -> tuple[float, float]:
    seconds = [0.0, 0.0]
    for index in (first, 1 - first):
        stdin, stdout = processes[index].stdin, processes[index].stdout
        print(name, file=stdin, flush=True)
        seconds[index] = float(stdout.readline())  # type: ignore[union-attr]
    return seconds[0], seconds[1]


def run_benchmark(tree: Path, name: str, options: list[str]) -> dict[str, float]:
    """Return the figures of a benchmark of a tree, with paths such as ``topk/softlabels/rows_per_s`` as names."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, f"benchmarks/{name}.py", *options, "--json", str(file)]
        subprocess.run(command, cwd=tree, env=environment(tree), check=True, stdout=subprocess.DEVNULL)
        return dict(leaves(json.loads(file.read_text())))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a document with their paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}".lstrip("/"))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def speed(name: str, before: float, after: float) -> float | None:
    """Return the speed after over before; None for figures that are no times and no rates."""
    if before <= 0 or after <= 0:
        return None
    if "per_s" in name:
        return after / before
    return before / after if name.endswith(("_s", "_per_million")) or "/seconds" in name else None


def compare_benchmark(before: Path, name: str, options: list[str]) -> None:
    """Print the rows of the table for one benchmark."""
    runs = [(run_benchmark(before, name, options), run_benchmark(ROOT, name, options))]
    runs += [run[::-1] for run in [(run_benchmark(ROOT, name, options), run_benchmark(before, name, options))]]
    for figure in runs[0][0]:
        pairs = [(first[figure], second[figure]) for first, second in runs if figure in first and figure in second]
        ratios = [ratio for pair in pairs if (ratio := speed(figure, *pair)) is not None]
        if ratios:
            first, second = (statistics.median(pair[index] for pair in pairs) for index in (0, 1))
            print(
                f"| {name}.py | {figure} | {first:,.4g} | {second:,.4g} | {statistics.median(ratios):.3f} |", flush=True
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="commit to compare with")
    parser.add_argument("--turns", type=int, default=10, help="turns per operation and pair [10]")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of processes that take so many turns [3]")
    parser.add_argument("--only", default="", help="operations whose names hold this")
    parser.add_argument("--store", default="", help="stores whose names hold this")
    parser.add_argument("--benchmarks", action="store_true", help="also run the benchmarks of both trees, twice each")
    parser.add_argument("--quick", action="store_true", help="smallest sizes and one turn, to see that it works")
    arguments = parser.parse_args()
    shutil.which("git") or parser.error("git is not installed")
    with tree_of(arguments.commit) as before:
        print(f"| store or script | operation | {arguments.commit} | now | speed |\n|---|---|---:|---:|---:|")
        for store in [store for store in STORES if arguments.store in store]:
            turns, pairs = (1, 1) if arguments.quick else (arguments.turns, arguments.pairs)
            compare_store(before, store, turns, arguments.only, pairs)
        for name, (full, quick) in BENCHMARKS.items() if arguments.benchmarks else ():
            compare_benchmark(before, name, quick if arguments.quick else full)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(*sys.argv[2:])
    else:
        main()
