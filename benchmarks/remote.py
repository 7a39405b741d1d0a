"""Measure reading through an object store, push and pull: ``python -m benchmarks.remote``.

    python -m benchmarks.remote [--rows 1000000] [--latency-ms 20] [--mb 1000] [--s3-mb 1000] [--repeats 3] [--json F]

The service is moto's S3 server on this machine, which takes its share of the cores. `--mb 0` leaves out part 2.

1. Two epochs of the loader, rows in order, with memory for three windows: from disk, through S3 with a cold and with a
   warm cache, in turns; and the first batch of a shuffled epoch, which waits for a window of 64 chunks. The same from
   nginx, which needs less of the cores. A relay delays every request by ``--latency-ms``, as a network does, and counts
   the bytes that arrive. Server and relay run on the cores of the reader, so its own CPU time is printed as well.
   Goals: the first batch within 1 s, bytes fetched over bytes needed at most 1.1.
2. ``push`` and ``pull`` beside the least that moves and checks the same files: a loop that reads, hashes, writes and
   syncs them; bare uploads and hashes; bare downloads that are hashed, written and synced. Goal: 0.7 of the speed of
   disk and hash, which is that of the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

import softlabels as sl
from softlabels.sharing.transfer import NETWORK_WORKERS
from softlabels.store.storage.posix import BLOCK_BYTES
from tests.store.storage.object_store_server import BUCKET, free_port, s3_server, use_server
from tests.store.storage.test_http_storage import web_server

Runs = Mapping[str, Callable[[], dict[str, float]]]
CLASSES = 1000
FIGURES = ("seconds", "cpu", "second", "second_cpu")
RELAY_BYTES = 2**18
MEMORY = 2**25
"""Bytes of decoded labels that the loader holds: the second epoch decodes them again."""


def make(path: Path, rows: int, encoding: str) -> None:
    """Make a store of random labels; the same logits again and again, since only their bytes matter."""
    logits = np.random.default_rng(0).normal(size=(4096, CLASSES)).astype(np.float32)
    with sl.create(path, heads={"logits": sl.Head(classes=CLASSES, encoding=encoding)}) as writer:
        for start in range(0, rows, len(logits)):
            count = min(len(logits), rows - start)
            writer.append(list(range(start, start + count)), {"logits": logits[:count]})


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, count: Any) -> None:
    """Pass bytes on, each group after a delay, and count them."""
    while data := await reader.read(RELAY_BYTES):
        await asyncio.sleep(delay)
        count.value += len(data)
        writer.write(data)
        await writer.drain()
    writer.close()


def _serve(port: int, upstream: int, delay: float, received: Any) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = multiprocessing.Value("q", 0, lock=False)
        there, back = await asyncio.open_connection("127.0.0.1", upstream)
        both = (_pump(reader, back, delay, sent), _pump(there, writer, 0.0, received))
        await asyncio.gather(*both, return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_server(connect, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def relay(upstream: int, delay: float) -> Iterator[tuple[int, Any]]:
    """Run a relay in a process of its own; yields its port and the count of the bytes that clients received."""
    port, received = free_port(), multiprocessing.Value("q", 0, lock=False)
    process = multiprocessing.Process(target=_serve, args=(port, upstream, delay, received), daemon=True)
    process.start()
    try:
        yield port, received
    finally:
        process.terminate()
        process.join()


@contextmanager
def web(root: Path, delay: float) -> Iterator[tuple[str, Any] | None]:
    """Serve the store in a directory by nginx behind a relay; yields its URL and the count, None without nginx."""
    if shutil.which("nginx") is None:
        yield None
        return
    with web_server(root, root, "nginx") as url, relay(int(url.rpartition(":")[2]), delay) as (port, received):
        yield f"http://127.0.0.1:{port}/labels", received


def epochs(location: str | Path) -> dict[str, float]:
    """Read all rows in their order twice; returns seconds to the first batch, and time and CPU time of each epoch."""
    began, cpu, first = time.perf_counter(), time.process_time(), 0.0
    loader = sl.loader(sl.open(location), batch_size=1024, shuffle=False, memory=MEMORY)
    for _ in loader:
        first = first or time.perf_counter() - began
    middle, middle_cpu = time.perf_counter(), time.process_time()
    for _ in loader:
        pass
    return {
        "first": first,
        "seconds": middle - began,
        "cpu": middle_cpu - cpu,
        "second": time.perf_counter() - middle,
        "second_cpu": time.process_time() - middle_cpu,
    }


def first_batch(location: str | Path) -> dict[str, float]:
    """Return the seconds to the first batch of a shuffled epoch."""
    began = time.perf_counter()
    for _ in sl.loader(sl.open(location), batch_size=1024, seed=0):
        break
    return {"first": time.perf_counter() - began}


def in_turns(runs: Runs, repeats: int) -> dict[str, dict[str, float]]:
    """Return the median of each figure of each run; runs take turns, so that other work disturbs all of them alike."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            results[name].append(run())
    return {
        name: {figure: statistics.median(one[figure] for one in many) for figure in many[0]}
        for name, many in results.items()
    }


def read(root: Path, rows: int, latency: float, repeats: int, port: int) -> dict[str, Any]:
    """Measure and print epochs through S3 beside those from disk."""
    make(root / "labels", rows, "topk:32")
    size = sl.open(root / "labels").bytes
    with relay(port, latency) as (between, received), use_server(between), web(root, latency) as website:
        url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        sl.push(root / "labels", url)
        counts = {url: received}

        def cold(run: Callable[[str], dict[str, float]], location: str) -> dict[str, float]:
            # A cache of its own: threads of the run before, which may have been left early, still fill theirs.
            os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=root)
            before = counts[location].value
            return run(location) | {"fetched": (counts[location].value - before) / size}

        runs: dict[str, Callable[[], dict[str, float]]] = {
            "disk": lambda: epochs(root / "labels"),
            "disk, shuffled": lambda: first_batch(root / "labels"),
            "S3, cold": lambda: cold(epochs, url),
            "S3, warm": lambda: epochs(url),
            "S3, cold, shuffled": lambda: cold(first_batch, url),
        }
        if website is not None:
            address, counts[address] = website
            runs["nginx, cold"] = lambda: cold(epochs, address)
            runs["nginx, cold, shuffled"] = lambda: cold(first_batch, address)
        epochs(root / "labels")  # imports
        results = in_turns(runs, repeats)
    disk = results["disk"]
    print(f"{rows:,} rows, {size / 1e6:.0f} MB, {latency * 1000:.0f} ms a request")
    for name, one in results.items():
        speed = fetched = ""
        if "seconds" in one:
            share, cpu, second, second_cpu = (disk[figure] / one[figure] for figure in FIGURES)
            speed = f"{rows / one['seconds'] / 1e6:.2f} M rows/s, {share:.2f} of disk (CPU {cpu:.2f}), second epoch "
            speed += f"{second:.2f} (CPU {second_cpu:.2f}); "
            fetched = f"; bytes fetched over needed {one['fetched']:.3f}" if one.get("fetched") else ""
        print(f"  {name}: {speed}first batch {one['first']:.2f} s{fetched}")
    return results


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - began}


def copied(source: Path, target: Path) -> None:
    """Read, hash, write and sync the shards of a store, one after the other."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted((source / "shards").rglob("*.zip")):
        hasher = blake3()
        with path.open("rb") as data, (target / path.name).open("wb") as copy:
            while block := data.read(BLOCK_BYTES):
                hasher.update(block)
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())


def transfer(root: Path, mb: int, s3_mb: int, repeats: int) -> dict[str, Any]:
    """Measure and print push and pull beside the least that moves the same bytes."""
    results: dict[str, Any] = {}
    disk = 0.0
    for place, megabytes, runs_of in (("directory", mb, _between_directories), ("S3", s3_mb, _through_s3)):
        large = root / f"large-{megabytes}"
        if not large.exists():
            make(large, megabytes * 500, "dense:f16")
        size = sl.open(large).bytes
        results[place] = medians = in_turns(runs_of(root, large), repeats)
        print(f"{place}, {size / 1e6:.0f} MB")
        for name, one in medians.items():
            least = medians[f"least {name.removeprefix('least ')}"]["seconds"]
            rate = size / one["seconds"] / 1e6
            disk = disk or rate
            print(
                f"  {name}: {rate:.0f} MB/s, {least / one['seconds']:.2f} of the least, {rate / disk:.2f} of the loop"
            )
    return results


def _between_directories(root: Path, large: Path) -> Runs:
    return {
        "least push": lambda: timed(lambda: copied(large, root / "least")),
        "push": lambda: timed(lambda: _anew(root / "copy", large)),
    }


def _through_s3(root: Path, large: Path) -> Runs:
    import obstore

    shards = sorted((large / "shards").rglob("*.zip"))
    bare = obstore.store.from_url(f"s3://{BUCKET}/bare", client_options={"allow_http": True})
    pushed = obstore.store.from_url(f"s3://{BUCKET}/pushed", client_options={"allow_http": True})
    url = f"s3://{BUCKET}/pushed"
    (root / "least").mkdir(exist_ok=True)

    def put(path: Path) -> None:
        with path.open("rb") as data:
            blake3(data.read())
            data.seek(0)
            obstore.put(bare, path.name, data)

    def get(path: Path) -> None:
        data = bytes(obstore.get(bare, path.name).bytes())
        blake3(data)
        with (root / "least" / path.name).open("wb") as copy:
            copy.write(data)
            copy.flush()
            os.fsync(copy.fileno())

    def all_of(one: Callable[[Path], None]) -> None:
        with ThreadPoolExecutor(NETWORK_WORKERS) as pool:
            list(pool.map(one, shards))

    def push() -> dict[str, float]:
        for page in obstore.list(pushed):  # the server holds everything in memory
            obstore.delete(pushed, [entry["path"] for entry in page])
        return timed(lambda: sl.push(large, url))

    return {
        "least push": lambda: timed(lambda: all_of(put)),
        "push": push,
        "least pull": lambda: timed(lambda: all_of(get)),
        "pull": lambda: timed(lambda: _anew(root / "copy", url)),
    }


def _anew(target: Path, source: str | Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    sl.push(source, target)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--s3-mb", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, s3_server() as port:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        results: dict[str, Any] = {}
        if arguments.rows:
            latency = arguments.latency_ms / 1000
            results["read"] = read(root, arguments.rows, latency, arguments.repeats, port)
        if arguments.mb:
            with use_server(port):
                results |= transfer(root, arguments.mb, arguments.s3_mb, arguments.repeats)
    print(f"load of the machine {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
