"""Measure sealing, opening, reading, resuming and verifying a store of 100,000 units or more.

    python benchmarks/scale.py [--units 100000] [--json scale.json]

The units are tiny. Their shards are links to one file, so that a million of them fit on a disk; records are files of
their own. The store is sealed and opened by processes of their own, so that imports are told apart from the store. The
bound for verifying is BLAKE3 over the same bytes, read in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from blake3 import blake3
from tqdm import tqdm

from softlabels.labels import Head
from softlabels.store import (
    DataRecord,
    Descriptor,
    StoreWriter,
    TeacherRecord,
    create_or_open,
    open_store,
    seal,
    verify,
)
from softlabels.store.format import canonical_json, paths
from softlabels.store.maintenance.verify import unit_problem

ROWS = 4
HOLES = 1000
CHILD = "--child"


def describe(units: int, rows: int, classes: int, encoding: str) -> Descriptor:
    """A store of ``units`` units of ``rows`` rows."""
    total = units * rows
    return Descriptor(
        rows=total, unit_rows=rows, chunk_rows=min(rows, 1024),
        heads={"logits": Head(encoding=encoding, classes=classes)},
        codec="lz4", teacher=TeacherRecord(spec="t", digest="d"),
        data=DataRecord(spec="x", fingerprint="f", rows=total),
    )  # fmt: skip


def columns(rows: int, classes: int, encoding: str) -> dict[str, np.ndarray]:
    """Random labels."""
    rng = np.random.default_rng(0)
    own = {"key": rng.integers(0, 256, (rows, 16), dtype=np.uint8), "view": np.zeros(rows, np.uint32)}
    if encoding == "dense:f16":
        return own | {"logits/values": rng.normal(size=(rows, classes)).astype(np.float16)}
    ids = np.argsort(rng.random((rows, classes)), axis=1)[:, :8].astype(np.uint16)
    values = -np.sort(rng.exponential(3, (rows, 8)), axis=1)
    return own | {
        "logits/ids": ids, "logits/values": values.astype(np.float16), "logits/tail": np.full((rows, 1), -1, np.float32)
    }  # fmt: skip


def child(task: str, root: str) -> None:
    """Seal, or open and read the first chunk; print the seconds and the peak memory in MiB."""
    figures: dict[str, float] = {}
    began = time.perf_counter()
    if task == "seal":
        seal(root)
        figures["seal_s"] = time.perf_counter() - began
        figures["seal_cpu_s"] = time.process_time()
    else:
        store = open_store(root)
        opened = time.perf_counter()
        store.read(range(ROWS))
        figures |= {"open_s": opened - began, "first_chunk_s": time.perf_counter() - opened}
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    figures[f"{task}_peak_mib"] = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1024
    print(json.dumps(figures))


def in_child(task: str, root: Path, repeats: int = 1) -> dict[str, float]:
    """Return the medians of a task over processes of their own."""
    command = [sys.executable, __file__, CHILD, task, str(root)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(repeats)
    ]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def plant_units(root: Path, units: int) -> StoreWriter:
    """A store of many small units: the first is committed by the real writer, the others have its shard by a link.

    Rows, keys and shard are the same in every unit, so each record is right. Nothing is synced.
    """
    store = create_or_open(root, describe(units, ROWS, 300, "topk:8:f16"))
    with store.begin(0) as writer:
        writer.append(columns(ROWS, 300, "topk:8:f16"))
        writer.commit()
    first = store.record(0)
    shard = root / paths.shard_path(0, first.attempt, "zarr")
    for unit in tqdm(range(1, units), desc="plant", mininterval=5):
        target = root / paths.shard_path(unit, first.attempt, "zarr")
        record = root / paths.record_path(unit)
        if unit % paths.UNITS_PER_DIRECTORY == 0:  # a file system bounds the links of a file
            target.parent.mkdir(parents=True)
            record.parent.mkdir(parents=True)
            shard = Path(shutil.copy(shard, target))
        else:
            os.link(shard, target)
        record.write_bytes(canonical_json.to_bytes(replace(first, unit=unit).to_json()))
    return store


def many_units(folder: Path, units: int) -> dict[str, float]:
    """A store of many small units."""
    root = folder / "many"
    store = plant_units(root, units)
    figures = {"units": float(units)} | in_child("seal", root)
    (root / paths.record_path(units - 1)).touch()
    figures |= {f"again_{name}": value for name, value in in_child("seal", root).items()}
    figures |= in_child("open", root, repeats=5)
    snapshots = list((root / "snapshots").iterdir())
    figures["snapshot_bytes_per_unit"] = sum(path.stat().st_size for path in snapshots) / units
    figures["record_bytes"] = (root / paths.record_path(units - 1)).stat().st_size
    began = time.perf_counter()
    if unit_problem(store.storage, store.descriptor, units // 2, deep=True)[1] is not None:
        raise RuntimeError("a unit is damaged")
    figures["verify_unit_s"] = time.perf_counter() - began
    for path in sorted((root / "records").rglob("*.json"))[:: max(1, units // HOLES)]:
        path.unlink()
    began = time.perf_counter()
    figures["holes"] = float(len(list(store.missing())))
    figures["resume_s"] = time.perf_counter() - began
    return figures


def verifying(folder: Path) -> dict[str, float]:
    """Verify beside BLAKE3 over the same bytes, interleaved."""
    rows, units, encoding = 16_384, 12, "dense:f16"
    store = create_or_open(folder / "large", describe(units, rows, 1000, encoding))
    content = columns(rows, 1000, encoding)
    for unit in range(units):
        with store.begin(unit) as writer:
            writer.append(content)
            writer.commit()
    shards = sorted((folder / "large" / "shards").rglob("*.zip"))
    bare, ours = [], []
    for _ in range(5):
        began = time.perf_counter()
        for shard in shards:
            hasher = blake3()
            with shard.open("rb", buffering=0) as file:
                while data := file.read(2**22):
                    hasher.update(data)
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        if verify(folder / "large").bad:
            raise RuntimeError("the store is damaged")
        ours.append(time.perf_counter() - began)
    size = sum(shard.stat().st_size for shard in shards)
    return {
        "verify_gb_per_s": size / statistics.median(ours) / 1e9,
        "verify_over_hash": statistics.median(ours) / statistics.median(bare),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to make the stores; /dev/shm where there is one")
    parser.add_argument("--skip-verify", action="store_true", help="leave out the throughput of verify")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108  no disk is measured here
    folder = Path(tempfile.mkdtemp(dir=arguments.folder or (memory if memory.is_dir() else None)))
    try:
        figures = {} if arguments.skip_verify else verifying(folder)
        figures |= many_units(folder, arguments.units)
    finally:
        shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name:>18}  {value:,.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(sys.argv[2], sys.argv[3])
    else:
        main()
