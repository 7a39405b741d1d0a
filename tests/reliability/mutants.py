"""Mutated stores, by accident and by intent: an exception, or the labels that were committed; never a crash.

An accident changes bytes. An attacker also recomputes every hash that covers them, so that only bounds and value checks
stand between the bytes and the reader; then other labels may come out, but nothing else may happen. Each worker is a
process of its own: a crash shows in its exit status, its memory in its peak.
"""

from __future__ import annotations

import os
import pickle
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

import softlabels as sl
from softlabels.errors import SoftLabelsError
from softlabels.store import open_storage
from softlabels.store.format import canonical_json, paths
from softlabels.store.format.descriptor import parse_descriptor
from softlabels.store.format.record import parse_record, read_record
from softlabels.store.format.snapshot import read_prior, read_snapshot, read_table
from softlabels.store.unit_reader import UnitReader
from tests.reliability import world

UNITS = 2
NASTY: list[Any] = [
    -1, 0, 1, 2**31, 2**53, 2**60, 2**200, 1e308, 0.5, True, None, "", "../../etc/passwd", "/dev/zero", "a" * 5000,
    "\x00", "\x1b[31m", [], {}, [[]], {"a": {}}, "0" * 64, "f" * 64,
]  # fmt: skip
WEIGHTS = {
    "shard": 60, "record": 20, "extras": 8, "descriptor": 3, "snapshot": 3, "table": 3, "prior": 3, "codebook": 3,
}  # fmt: skip
"""How often an accident is to which file."""
EXTREMES = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**20, 2**28]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One accident."""
    out = bytearray(data)
    size = len(out)
    offset = rng.randrange(size) if size else 0
    kind = rng.randrange(8)
    if kind == 0 or size < 8:
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            if size:
                out[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[offset : offset + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 2:
        length = min(rng.choice([16, 64, 512, 4096]), size - offset)
        out[offset : offset + length] = bytes(length)
    elif kind == 3:
        del out[offset:]
    elif kind == 4:
        del out[offset : offset + rng.randrange(1, 64)]
    elif kind == 5:
        out[offset:offset] = out[offset : offset + rng.randrange(1, 64)]
    elif kind == 6:
        other, length = rng.randrange(size), rng.randrange(1, 64)
        out[offset : offset + length], out[other : other + length] = (
            out[other : other + length],
            out[offset : offset + length],
        )
    else:
        width = rng.choice([1, 2, 4])
        out[offset : offset + width] = (rng.choice(EXTREMES) % 256**width).to_bytes(width, "little")
    return bytes(out)


def mutate_json(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One value replaced by something nobody expects, or removed, or added."""
    out: dict[str, Any] = pickle.loads(pickle.dumps(value))  # noqa: S301  a deep copy of our own value
    spots: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                collect(node[key])

    collect(out)
    node, key = rng.choice(spots)
    kind = rng.randrange(4)
    if kind == 0 and isinstance(node, dict):
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node["extra"] = rng.choice(NASTY)
    elif kind == 2 and isinstance(node[key], int):
        node[key] += rng.choice([-1, 1, 7, 2**40])
    else:
        node[key] = rng.choice(NASTY)
    return out


class Victim:
    """A sealed store on which mutants are tried."""

    def __init__(self, folder: Path, shard_format: str, labels: str) -> None:
        self.root = folder / "store"
        self.store = world.open_store(self.root, UNITS, shard_format, labels)
        for unit in range(UNITS):
            world.commit(self.store, unit, extras=True)
        sl.seal(self.root)
        self.snapshot = read_snapshot(open_storage(self.root), 1)
        self.descriptor = self.store.descriptor
        self.shard_format = shard_format
        self.record = read_record(open_storage(self.root), 0, self.descriptor)
        attempt = self.record.attempt
        number = self.snapshot.number
        self.files = {
            "shard": self.root / paths.shard_path(0, attempt, shard_format),
            "record": self.root / paths.record_path(0),
            "extras": self.root / paths.extras_path(0, attempt),
            "descriptor": self.root / "softlabels.json",
            "snapshot": self.root / paths.snapshot_path(number),
            "table": self.root / paths.table_path(number, self.snapshot.table),
            "prior": self.root / paths.prior_path(number, str(self.snapshot.prior)),
        }
        if codebook := self.descriptor.heads["logits"].codebook:
            self.files["codebook"] = self.root / paths.codebook_path(codebook)
        # A codebook takes the place of the store's own prior, and a sample needs none.
        self.files = {name: path for name, path in self.files.items() if path.exists()}
        self.good = {name: path.read_bytes() for name, path in self.files.items()}
        self.truth = {name: self.read(name) for name in self.files}

    def read(self, name: str) -> Any:
        """Return the content of the store as the reader that uses this file sees it."""
        if name in {"shard", "record"}:
            return self.rows(read_record(open_storage(self.root), 0, self.descriptor))
        if name == "extras":
            return UnitReader(open_storage(self.root), self.descriptor, self.record).read_extras()
        if name == "table":
            return read_table(open_storage(self.root), self.snapshot)
        if name == "prior":
            return read_prior(open_storage(self.root), self.snapshot)
        labels = sl.open(self.root).read(range(UNITS * world.UNIT_ROWS))
        dither = {} if labels.dither is None else {"offsets": labels.dither.offsets}
        return {"ids": labels.ids, "values": labels.values} | dither

    def rows(self, record: Any) -> dict[str, np.ndarray]:
        """All columns of unit 0."""
        reader = UnitReader(open_storage(self.root), self.descriptor, record)
        parts = [reader.read_chunk(number) for number in range(len(record.chunks))]
        return {name: np.concatenate([item[name] for item in parts]) for name in parts[0]}

    def accident(self, rng: random.Random) -> str:
        """Change one file by accident and read; what came of it."""
        name = rng.choices(list(self.files), [WEIGHTS[name] for name in self.files])[0]
        self.files[name].write_bytes(changed := mutate(self.good[name], rng))
        try:
            outcome = _outcome(lambda: self.read(name), self.truth[name])
        finally:
            self.files[name].write_bytes(self.good[name])
        return "same" if changed == self.good[name] and outcome == "same" else outcome

    def attack(self, rng: random.Random) -> str:
        """Change something and recompute the hashes over it; other labels may come out, nothing else may happen."""
        kind = rng.randrange(4)
        if kind == 0:
            return self._attack_json(rng)
        return self._attack_shard(rng)

    def _attack_json(self, rng: random.Random) -> str:
        if rng.random() < 0.5:
            value = mutate_json(canonical_json.parse(self.good["record"], 2**20), rng)
            value.pop("digest", None)
            data = _bytes(value | {"digest": canonical_json.digest(value)})
            return _outcome(lambda: self.rows(_typed(lambda: parse_record(data, 0, self.descriptor))), None)
        data = _bytes(mutate_json(canonical_json.parse(self.good["descriptor"], 2**20), rng))
        return _outcome(lambda: _typed(lambda: parse_descriptor(data)).columns(), None)

    def _attack_shard(self, rng: random.Random) -> str:
        """Mutate a chunk or the footer in place; sizes, ranges and hashes follow."""
        data = self.good["shard"]
        segments = [data[r.offset : r.offset + r.size] for r in (*self.record.chunks, self.record.footer)]
        which = rng.randrange(len(segments))
        segments[which] = mutate(segments[which], rng)
        if not segments[which]:
            return "same"
        ranges, offset = [], 0
        for segment, old in zip(segments, (*self.record.chunks, self.record.footer), strict=True):
            ranges.append(replace(old, offset=offset, size=len(segment), blake3=blake3(segment).hexdigest()))
            offset += len(segment)
        complete = b"".join(segments)
        self.files["shard"].write_bytes(complete)
        forged = replace(
            self.record,
            size=len(complete),
            blake3=blake3(complete).hexdigest(),
            chunks=tuple(ranges[:-1]),
            footer=ranges[-1],
        )
        try:
            return _outcome(lambda: self.rows(forged), None)
        finally:
            self.files["shard"].write_bytes(data)

    def plainly(self, rng: random.Random) -> str:
        """The same kind of accident in a shard, read by plain zarr or plain pyarrow."""
        path = self.files["shard"]
        path.write_bytes(mutate(self.good["shard"], rng))
        try:
            return _outcome(lambda: _plain(path, self.shard_format), _plain_truth(self.truth["shard"]), typed=Exception)
        finally:
            path.write_bytes(self.good["shard"])


def _bytes(value: dict[str, Any]) -> bytes:
    return canonical_json.to_bytes(value)


def _typed(parse: Callable[[], Any]) -> Any:
    """Parsers raise ValueError, which their callers turn into StoreCorrupt; here that is the exception we ask for."""
    try:
        return parse()
    except ValueError as error:
        raise SoftLabelsError(str(error)) from error


def _outcome(read: Callable[[], Any], truth: Any, typed: type[Exception] = SoftLabelsError) -> str:
    try:
        result = read()
    except typed:
        return "refused"
    except Exception as error:  # noqa: BLE001  to be counted
        return f"untyped {type(error).__name__}: {error}"[:200]
    if truth is None:
        return "other"
    return "same" if _equal(result, truth) else "wrong"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _plain(path: Path, shard_format: str) -> dict[str, Any]:
    if shard_format == "parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path, use_threads=False)
        return {name: table.column(name).to_pylist() for name in ("logits/ids", "logits/values")}
    import zarr

    with zarr.storage.ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        return {name: np.asarray(group[name][:]) for name in ("logits/ids", "logits/values")}


def _plain_truth(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: columns[name] for name in ("logits/ids", "logits/values")}


def run(
    count: int,
    shard_format: str,
    labels: str = "topk",
    *,
    seed: int = 0,
    workers: int = 2,
    plain: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Try ``count`` mutants, seven accidents to three attacks, and ``plain`` through plain readers, in processes.

    Returns:
        Counts of outcomes: ``accidents``, ``attacks``, ``plain``; ``crashes`` of our processes and ``plain crashes``;
        ``memory``, the greatest growth in bytes.
    """
    parts = [(count // workers, 0, seed * 1000 + number) for number in range(workers)]
    # Plain readers may crash; they have a process of their own.
    parts += [(0, plain, seed * 1000 + workers)] if plain else []
    running = [
        (*_start(mutants, plainly, shard_format, labels, luck), bool(plainly)) for mutants, plainly, luck in parts
    ]
    total: dict[str, Any] = {name: Counter() for name in ("accidents", "attacks", "plain")}
    total |= {"crashes": 0, "plain crashes": 0, "memory": 0}
    for number, (pid, pipe, plainly) in enumerate(running):
        with os.fdopen(pipe, "rb") as answer:
            said = answer.read()
        _, status = os.waitpid(pid, 0)
        if status or not said:
            total["plain crashes" if plainly else "crashes"] += 1
        else:
            result = pickle.loads(said)  # noqa: S301  from our own child
            for name in ("accidents", "attacks", "plain"):
                total[name] += result[name]
            total["memory"] = max(total["memory"], result["memory"])
        progress((number + 1) * count // len(running))
    return total


def _start(count: int, plain: int, shard_format: str, labels: str, seed: int) -> tuple[int, int]:
    ours, other = os.pipe()
    if pid := os.fork():
        os.close(other)
        return pid, ours
    status = 1
    try:
        os.close(ours)
        data = pickle.dumps(_work(count, plain, shard_format, labels, seed))
        with os.fdopen(other, "wb") as pipe:
            pipe.write(data)
        status = 0
    finally:
        os._exit(status)


def _work(count: int, plain: int, shard_format: str, labels: str, seed: int) -> dict[str, Any]:
    import warnings

    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(dir=world.TEMPORARY if world.TEMPORARY.is_dir() else None))
    try:
        victim, rng = Victim(folder, shard_format, labels), random.Random(seed)
        if plain:
            victim.plainly(random.Random(0))  # imports
        result: dict[str, Any] = {"accidents": Counter(), "attacks": Counter(), "plain": Counter()}
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(count):
            if rng.random() < 0.7:
                result["accidents"][victim.accident(rng)] += 1
            else:
                result["attacks"][victim.attack(rng)] += 1
        result["memory"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
        for _ in range(plain):
            result["plain"][victim.plainly(rng)] += 1
    finally:
        shutil.rmtree(folder)
    return result
