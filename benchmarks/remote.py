"""Speed of reading a store through an object store, beside a local disk: ``python -m benchmarks.remote``.

The service is moto's S3 server on this machine. Prints rows/s of an epoch from disk, with a cold and with a warm cache,
the time to the first chunk, and the bytes of the ranges that were fetched over the bytes of the shards. Then the time
of a push of a larger store to a directory, beside reading, hashing, writing and syncing the same bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
from blake3 import blake3

import softlabels as sl
from softlabels.store.storage.posix import BLOCK_BYTES
from tests.store.storage.object_store_server import BUCKET, s3_server, use_server

CLASSES = 1000


def make(path: Path, rows: int) -> None:
    """Make a store of random top-32 labels."""
    rng = np.random.default_rng(0)
    heads = {"logits": sl.Head(classes=CLASSES, encoding="topk:32")}
    with sl.create(path, heads=heads) as writer:
        for start in range(0, rows, 4096):
            count = min(4096, rows - start)
            logits = rng.normal(size=(count, CLASSES)).astype(np.float32)
            writer.append(list(range(start, start + count)), {"logits": logits})


def epoch(location: str | Path) -> tuple[float, float]:
    """Read all rows in the order of the store; returns seconds to the first batch and in all."""
    began = time.perf_counter()
    store = sl.open(location)
    first = None
    for number in range(store.chunks):
        store.read_chunk(number)
        first = first or time.perf_counter() - began
    return first or 0.0, time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--push-mb", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        make(root / "labels", arguments.rows)
        size = sl.open(root / "labels").bytes
        _, local = epoch(root / "labels")
        print(f"{arguments.rows:,} rows, {size / 1e6:.0f} MB; local disk {arguments.rows / local / 1e6:.2f} M rows/s")
        with s3_server() as port, use_server(port):
            url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
            sl.push(root / "labels", url)
            for name in ("cold", "warm"):
                first, seconds = epoch(url)
                fetched = sum(path.stat().st_size for path in (root / "cache").rglob("*") if path.is_file())
                print(
                    f"S3, {name} cache: {arguments.rows / seconds / 1e6:.2f} M rows/s, {local / seconds:.2f} of disk; "
                    f"first chunk {first:.2f} s; ranges fetched over bytes of shards {fetched / size:.3f}"
                )
        copies = max(1, arguments.push_mb * 10**6 // size)
        large = root / "large"
        make(large, arguments.rows * copies)
        began = time.perf_counter()
        outcome = sl.push(large, root / "copy")
        pushed = time.perf_counter() - began
        began = time.perf_counter()
        for path in sorted((large / "shards").rglob("*.zip")):
            hasher = blake3()
            with path.open("rb") as source, (root / "plain").open("wb") as target:
                while data := source.read(BLOCK_BYTES):
                    hasher.update(data)
                    target.write(data)
                target.flush()
                os.fsync(target.fileno())
        plain = time.perf_counter() - began
        print(
            f"push of {outcome.bytes / 1e6:.0f} MB to a directory: {outcome.bytes / pushed / 1e6:.0f} MB/s, "
            f"{plain / pushed:.2f} of reading, hashing, writing and syncing in one thread"
        )
        shutil.rmtree(large)


if __name__ == "__main__":
    main()
