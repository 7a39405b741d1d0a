"""Memory and speed of readers of a store that is four times as large as the memory limit.

    python benchmarks/memory.py [--limit 512] [--folder DIR] [--json memory.json]

A store of dense float16 labels over 1,000 classes, decoded 4.2 times the limit, is written to disk. Processes of their
own then read two shuffled epochs of labels alone, each with RLIMIT_DATA set before anything is imported: the kernel
refuses all private memory beyond the limit (heap, arrays, stacks of threads; imports count, pages of files do not).
Before the first epoch the pages of the store's files are dropped, so that it comes from the disk. A control reads the
store in one window under the same limit, and must fail. About a minute; needs the store's size on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from softlabels.store import DataRecord, TeacherRecord

CHILD = "--child"
CLASSES, CHUNK_ROWS, UNIT_ROWS = 1000, 512, 8192
TIMES = 4.2
BATCH = 1024
MIB = 2**20

READERS: dict[str, dict[str, int]] = {
    "as it comes: window=64, memory by what is free": {},
    "small: window=16, memory=32 MiB, threads=1": {"window": 16, "memory": 32 * MIB, "threads": 1},
    "global: the whole store in one window": {"window": 2**20, "memory": 2**40},
}
MUST_FAIL = "global: the whole store in one window"


def write(root: Path, limit: int) -> int:
    """Write the store; its rows."""
    from softlabels.labels import Head
    from softlabels.sources import id_keys
    from softlabels.store import Descriptor, create_or_open, seal

    units = -(-int(limit * TIMES) // (UNIT_ROWS * CLASSES * 2))
    rows = units * UNIT_ROWS
    store = create_or_open(root, Descriptor(
        rows=rows, unit_rows=UNIT_ROWS, chunk_rows=CHUNK_ROWS, codec="lz4",
        heads={"logits": Head(encoding="dense:f16", classes=CLASSES)}, teacher=TeacherRecord(spec="t", digest="d"),
        data=DataRecord(spec="x", fingerprint="f", rows=rows),
    ))  # fmt: skip
    rng = np.random.default_rng(0)
    for unit in tqdm(range(units), desc="write"):
        block = store.descriptor.unit_range(unit)
        values = (rng.standard_normal((len(block), CLASSES), np.float32) * 3).astype(np.float16)
        with store.begin(unit) as writer:
            writer.append({"key": id_keys(block), "view": np.zeros(len(block), np.uint32), "logits/values": values})
            writer.commit()
    seal(root)
    return rows


def forget(root: Path) -> None:
    """Drop the pages of the store's files."""
    os.sync()
    for path in root.rglob("*.zip"):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def status(name: str) -> int:
    """Bytes of one line of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123  cheap, it is asked for often
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def child(root: str, limit: str, options: str) -> None:
    """Read two epochs under the limit and print what it took."""
    import torch  # noqa: F401  so that it counts as an import

    import softlabels as sl

    figures: dict[str, float] = {"imports_mib": status("RssAnon") / MIB, "limit_mib": int(limit) / MIB}
    loader = sl.loader(sl.open(root), batch_size=BATCH, seed=0, device="cpu", **json.loads(options))
    for epoch in range(2):
        began, rows, peak = time.perf_counter(), 0, 0
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        for number, batch in enumerate(loader):
            rows += len(batch)
            if number % 4 == 0:
                peak = max(peak, status("RssAnon"))
        seconds = time.perf_counter() - began
        figures |= {
            f"rows_{epoch}": rows,
            f"rows_per_s_{epoch}": rows / seconds,
            f"peak_mib_{epoch}": peak / MIB,
            f"major_faults_{epoch}": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults,
        }
    print(json.dumps(figures | {"swap_mib": status("VmSwap") / MIB, "data_mib": status("VmData") / MIB}))


def read(root: Path, limit: int, options: dict[str, int]) -> dict[str, float] | str:
    """The figures of a process of its own, or the last line of its error."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    done = subprocess.run(
        [sys.executable, __file__, CHILD, str(root), str(limit), json.dumps(options)], check=False,
        capture_output=True, text=True, preexec_fn=limited,
    )  # fmt: skip
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=512, help="MiB that a reading process may take in all")
    parser.add_argument("--folder", type=Path, help="where to make the store; the disk that is to be measured")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="softlabels-memory-", dir=arguments.folder))
    limit = arguments.limit * MIB
    figures: dict[str, object] = {}
    try:
        rows = write(folder / "store", limit)
        decoded = rows * CLASSES * 2
        stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(
            f"\n{rows:,} rows, {decoded / MIB:,.0f} MiB decoded, {stored / MIB:,.0f} MiB on disk, "
            f"limit {arguments.limit} MiB: {decoded / limit:.2f} times\n\n"
            "| reader | peak RssAnon, two epochs | of it imports | rows/s, from disk | rows/s, again | major faults "
            "| swap |\n|---|---:|---:|---:|---:|---:|---:|"
        )
        for name, options in READERS.items():
            forget(folder / "store")
            run = figures[name] = read(folder / "store", limit, options)
            if (name == MUST_FAIL) != isinstance(run, str):
                raise RuntimeError(f"{name}: {run}")
            if isinstance(run, str):
                print(f"| {name} | refused: {run} |" + " |" * 5)
                continue
            if run["rows_0"] != rows or run["rows_1"] != rows:
                raise RuntimeError(f"{name}: {run['rows_0']:,} rows were read")
            print(f"| {name} | {run['peak_mib_0']:.0f}, {run['peak_mib_1']:.0f} MiB "
                  f"| {run['imports_mib']:.0f} MiB | {run['rows_per_s_0']:,.0f} | {run['rows_per_s_1']:,.0f} "
                  f"| {run['major_faults_0'] + run['major_faults_1']:,} | {run['swap_mib']:.0f} MiB |",
                  flush=True)  # fmt: skip
        figures |= {"rows": rows, "decoded_mib": decoded / MIB, "stored_mib": stored / MIB}
    finally:
        shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(*sys.argv[2:])
    else:
        main()
