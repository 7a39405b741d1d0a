"""Speed of shuffled, verified labels, beside a memory-mapped gather (the limit) and other libraries.

    python benchmarks/readers.py [--peers cache/peers/bin/python] [--quick] [--json readers.json]

One process a reader and round, interleaved, medians; batches of 1,024 as torch tensors. Workloads: top-32 of 50,000
classes; dense float16 with 1,000 classes; ragged rows of top-16 over a vocabulary. The peers have an environment of
their own (``make peers``); without it they are left out. Then: what verification costs, what a second core brings, a
store of 1,000 shards, and reading under a limit on memory (RLIMIT_DATA). Everything is in the page cache.

Our loader is measured twice: with the default memory, into which these stores fit, so that they are decoded once; and
``in windows`` of 16 chunks, with memory for three of them, as a larger store is read: chunks are verified and decoded
again in every epoch.
Figures count from opening on, so the first epoch is in both; ``later epochs`` count from the second epoch on, if there
was time for one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import peers
import verified

from softlabels.labels import Head
from softlabels.sources import id_keys
from softlabels.store import DataRecord, Descriptor, TeacherRecord, create_or_open, seal

CHILD = "--child"
CLASSES, K, RAGGED_K = 50_000, 32, 16
ROWS = {"topk": 1_000_000, "dense": 400_000, "ragged": 20_000}
LIMIT = 192 * 2**20
"""Bytes that a limited reader may take beyond its imports; the dense store is four times as large."""
LIMITED = 64 * 2**20

OURS = {
    "softlabels, lz4": ("lz4", False),
    "softlabels, zstd": ("zstd", False),
    "softlabels, lz4, in windows": ("lz4", True),
    "softlabels, zstd, in windows": ("zstd", True),
}
"""The store's codec, and whether memory is too little for all of it."""
WINDOW = 16
WINDOWS = {"topk": 2**25, "dense": 2**26, "ragged": 2**26}
"""Bytes of memory for three windows of 16 chunks, a fraction of the store."""
ONLY = {"WebDataset": ["topk"], "LitData": ["topk"], "HF datasets, torch format": ["topk"]}
"""Readers for some workloads only; the others take lists of several widths badly, or are two orders off anyway."""
NOT_RAGGED = {"zarr-python in windows"}


def windowed(workload: str) -> dict[str, int]:
    """Return the options that read a store in windows."""
    return {"memory": WINDOWS[workload], "window": WINDOW}


def make_raw(folder: Path, workload: str, rows: int) -> None:
    """Arrays as a teacher would leave them: ids like Zipf's, sorted log-probabilities."""
    rng = np.random.default_rng(0)
    (folder / "raw").mkdir(parents=True)
    if workload == "dense":
        values = np.empty((rows, 1000), np.float16)
        for start in range(0, rows, 16_384):
            block = values[start : start + 16_384]
            block[:] = rng.standard_normal(block.shape, np.float32) * 3
        np.save(folder / "raw" / "values.npy", values)
        return
    k = K
    if workload == "ragged":
        lengths = np.exp(rng.uniform(np.log(16), np.log(512), rows)).astype(np.int64)
        np.save(folder / "raw" / "starts.npy", np.concatenate([[0], np.cumsum(lengths)]))
        rows, k = int(lengths.sum()), RAGGED_K
    ids, values = np.empty((rows, k), np.uint16), np.empty((rows, k), np.float16)
    names = rng.permutation(CLASSES).astype(np.uint16)
    for start in range(0, rows, 65_536):
        block = slice(start, min(start + 65_536, rows))
        ids[block] = names[distinct(rng, block.stop - block.start, k)]
        drawn = np.cumsum(rng.exponential(0.35, (block.stop - block.start, k)).astype(np.float32), axis=1)
        values[block] = -drawn - 0.3
    np.save(folder / "raw" / "ids.npy", ids)
    np.save(folder / "raw" / "values.npy", values)
    np.save(
        folder / "raw" / "tail.npy", np.log1p(-np.exp(values.astype(np.float32)).sum(1, keepdims=True).clip(0, 0.99))
    )


def distinct(rng: np.random.Generator, rows: int, k: int) -> np.ndarray:
    """(rows, k) unlike numbers below CLASSES, small ones likelier: one from each of k bands that widen."""
    edges = np.arange(k + 1) + np.geomspace(1, CLASSES - k, k + 1).astype(np.int64) - 1
    low, width = edges[:-1], np.diff(edges)
    numbers = low + (rng.random((rows, k), np.float32) * width).astype(np.int64)
    return rng.permuted(numbers, axis=1)


def make_store(folder: Path, workload: str, name: str, codec: str, unit_rows: int | None = None) -> None:
    """A store of the raw arrays, by the real writer."""
    arrays = peers.load(folder)
    starts = arrays.pop("starts", None)
    rows = len(starts) - 1 if starts is not None else len(next(iter(arrays.values())))
    head, chunk = {
        "topk": (Head(encoding=f"topk:{K}:f16", classes=CLASSES), 4096),
        "dense": (Head(encoding="dense:f16", classes=1000), 512),
        "ragged": (Head(encoding=f"topk:{RAGGED_K}:f16", classes=CLASSES, kind="tokens", shape=(None,)), 128),
    }[workload]
    unit_rows = unit_rows or 4 * chunk
    store = create_or_open(folder / name, Descriptor(
        rows=rows, unit_rows=unit_rows, chunk_rows=min(chunk, unit_rows), heads={"logits": head}, codec=codec,
        teacher=TeacherRecord(spec="t", digest="d"), data=DataRecord(spec="x", fingerprint="f", rows=rows),
    ))  # fmt: skip
    for unit in range(store.descriptor.units):
        block = store.descriptor.unit_range(unit)
        columns = {"key": id_keys(block), "view": np.zeros(len(block), np.uint32)}
        entries = slice(block.start, block.stop)
        if starts is not None:
            columns["logits/length"] = np.diff(starts[block.start : block.stop + 1]).astype(np.uint32)
            entries = slice(int(starts[block.start]), int(starts[block.stop]))
        with store.begin(unit) as writer:
            writer.append(columns | {f"logits/{name}": array[entries] for name, array in arrays.items()})
            writer.commit()
    seal(folder / name)


def ours(root: str, options: dict[str, int], seed: int) -> Iterator[list]:
    """Shuffled epochs of a store without end, as tensors."""
    import softlabels as sl

    batches = sl.loader(sl.open(root), batch_size=peers.BATCH, seed=seed, device="cpu", **options)
    for batch in batches.stream():
        labels = batch.targets["logits"]
        yield [labels if labels.lengths is None else labels.lengths]


def child(root: str, seconds: str, options_json: str) -> None:
    """Measure our reader in a process of its own."""
    options = json.loads(options_json)
    if cores := options.pop("cores", 0):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if not options.pop("verify", True):
        leave_hashes_out()
    limit = options.pop("limit", 0)
    next(ours(root, options, 0))  # imports
    if limit:
        with open("/proc/self/status") as status:  # noqa: PTH123
            data = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (data + limit, data + limit))
    figures = peers.measure(lambda seed: ours(root, options, seed), float(seconds), rows_of(root))
    print(json.dumps(figures))


def rows_of(root: str) -> int:
    """Rows of a store."""
    import softlabels as sl

    return sl.open(root).rows


def leave_hashes_out() -> None:
    """Read as before but without BLAKE3, to see what it costs."""
    from softlabels.store import unit_reader

    unit_reader.UnitReader._verified = verified.unverified  # type: ignore[method-assign]  # noqa: SLF001


class Runs:
    """Runs readers in processes of their own."""

    def __init__(self, folder: Path, other: Path | None, seconds: float, rounds: int) -> None:
        self.folder, self.other, self.seconds, self.rounds = folder, other, seconds, rounds

    def ours(self, root: Path, **options: object) -> dict[str, float]:
        """Measure one of our stores once."""
        return _run([sys.executable, __file__, CHILD, str(root), str(self.seconds), json.dumps(options)])

    def peer(self, name: str, folder: Path) -> dict[str, float]:
        """Measure another reader once; the gather runs in this environment, so that it is there without peers."""
        python = sys.executable if name == "memory-mapped gather" else str(self.other)
        return _run([python, str(Path(peers.__file__)), "read", name, str(folder), str(self.seconds)])

    def workload(self, workload: str, rows: int) -> dict[str, dict[str, float]]:
        """All readers of one workload, interleaved."""
        folder = self.folder / workload
        make_raw(folder, workload, rows)
        for codec in ("lz4", "zstd"):
            make_store(folder, workload, codec, codec)
        names = ["memory-mapped gather", *OURS]
        if self.other is not None:
            names += self._write_peers(workload, folder)
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for turn in range(self.rounds):
            for name in names:
                # The fast ones are what ratios are made of; the others are measured three times.
                if name not in ("memory-mapped gather", *OURS) and turn >= 3:
                    continue
                if name in OURS:
                    codec, small = OURS[name]
                    figures[name].append(self.ours(folder / codec, **(windowed(workload) if small else {})))
                else:
                    figures[name].append(self.peer(name, folder))
        return {name: _medians(runs) for name, runs in figures.items()}

    def _write_peers(self, workload: str, folder: Path) -> list[str]:
        names = [name for name in peers.READERS if name != "memory-mapped gather"]
        names = [name for name in names if workload in ONLY.get(name, ROWS)]
        if workload == "ragged":
            names = [name for name in names if name not in NOT_RAGGED]
        formats = ["arrow"] + [kind for kind in peers.WRITERS if any(kind in name.lower() for name in names)]
        for kind in formats:
            _run([str(self.other), str(Path(peers.__file__)), "write", kind, str(folder)])
        return names

    def pairs(self, root: Path, first: dict[str, object], second: dict[str, object]) -> dict[str, float]:
        """Rows a second with two sets of options, in turn, and the median of the ratios."""
        pairs = [(self.ours(root, **first), self.ours(root, **second)) for _ in range(self.rounds)]
        rates = [(one["rows_per_s"], two["rows_per_s"]) for one, two in pairs]
        return {
            "first": statistics.median(one for one, _ in rates),
            "second": statistics.median(two for _, two in rates),
            "ratio": statistics.median(one / two for one, two in rates),
            "cpu_ratio": statistics.median(one["cpu_s_per_million"] / two["cpu_s_per_million"] for one, two in pairs),
        }

    def special(self) -> dict[str, dict[str, float]]:
        """Measure the effects of verification, a second core, many shards and little memory."""
        topk, dense = self.folder / "topk", self.folder / "dense"
        small: dict[str, object] = {**windowed("topk")}
        make_store(topk, "topk", "shards", "lz4", unit_rows=-(-len(peers.load(topk)["ids"]) // 1000))
        figures = {
            "verified over not, windows": self.pairs(topk / "lz4", small, {**small, "verify": False}),
            "the same on one core": self.pairs(
                topk / "lz4", {**small, "cores": 1}, {**small, "cores": 1, "verify": False}
            ),
            "two cores over one": self.pairs(topk / "lz4", {"cores": 2}, {"cores": 1}),
            "the same, windows, lz4": self.pairs(topk / "lz4", {**small, "cores": 2}, {**small, "cores": 1}),
            "the same, windows, zstd": self.pairs(topk / "zstd", {**small, "cores": 2}, {**small, "cores": 1}),
            "1,000 shards": _medians([self.ours(topk / "shards") for _ in range(self.rounds)]),
            "1,000 shards, windows": _medians([self.ours(topk / "shards", **small) for _ in range(self.rounds)]),
            "dense, limited": _medians([
                self.ours(dense / "lz4", limit=LIMIT, memory=LIMITED, window=16) for _ in range(self.rounds)
            ]),
        }  # fmt: skip
        figures["dense, limited"]["store_over_limit"] = peers.load(dense)["values"].nbytes / LIMIT
        return figures


def _run(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(_finite([run[name] for run in runs])) for name in runs[0]}


def _finite(values: list[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)] or [math.nan]


def show(workload: str, figures: dict[str, dict[str, float]]) -> None:
    """One table."""
    limit, later = (figures["memory-mapped gather"][name] for name in ("rows_per_s", "later_rows_per_s"))
    print(
        f"\n| {workload} | rows/s | of the gather | later epochs | first batch | memory | CPU s / 1M rows |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for name, one in figures.items():
        share = one["later_rows_per_s"] / later
        print(f"| {name} | {one['rows_per_s']:,.0f} | {one['rows_per_s'] / limit:.3f} "
              f"| {'' if math.isnan(share) else f'{share:.3f}'} | {one['first_batch_s']:.3f} s "
              f"| {one['memory_mib']:.0f} MiB | {one['cpu_s_per_million']:.2f} |", flush=True)  # fmt: skip


def main() -> None:
    """Make, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("cache/peers/bin/python"), help="python of the peers")
    parser.add_argument("--seconds", type=float, default=2.5, help="of reading, a process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, one round: to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    other = arguments.peers if arguments.peers.exists() else None
    if other is None:
        print(f"{arguments.peers} is not there, so the peers are left out; make peers installs them")
    folder = Path(tempfile.mkdtemp(prefix="softlabels-readers-"))
    runs = Runs(folder, other, arguments.seconds, 1 if arguments.quick else arguments.rounds)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for workload, rows in ROWS.items():
            figures[workload] = runs.workload(workload, rows // 10 if arguments.quick else rows)
            show(workload, figures[workload])
        figures["special"] = runs.special()
    finally:
        shutil.rmtree(folder)
    for name, one in figures["special"].items():
        print(f"{name:>28}  " + "  ".join(f"{key} {value:,.3f}" for key, value in one.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(*sys.argv[2:])
    else:
        main()
