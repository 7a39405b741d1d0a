"""Small good stores, and what an attacker does to them: change something and recompute every hash that covers it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

import softlabels as sl
from softlabels.labels import Head
from softlabels.store import DataRecord, Descriptor, TeacherRecord, create_or_open
from softlabels.store.format import canonical_json, paths, unit_table

ROWS, UNIT_ROWS, CHUNK_ROWS, CLASSES = 12, 6, 4, 300
KINDS = ("topk-zarr", "topk-parquet", "dense-zarr", "dense-parquet", "ragged-zarr", "ragged-parquet", "adaptive-zarr")
SUMS = np.ones((2, 1, CLASSES), np.float32)
"""Unlisted probability as a unit of this store may leave it."""
Change = Callable[[dict[str, Any]], Any]


def head_of(kind: str) -> Head:
    """The one head of a store of this kind."""
    name = kind.partition("-")[0]
    encoding = {"dense": "dense:f16", "adaptive": "adaptive:0.01:f16"}.get(name, "topk:3:f16")
    ragged = name == "ragged"
    return Head(
        encoding=encoding, classes=CLASSES, kind="tokens" if ragged else "classes", shape=(None,) if ragged else ()
    )


def descriptor(kind: str, **changes: Any) -> Descriptor:
    """Of a store of this kind."""
    fields: dict[str, Any] = {
        "rows": ROWS, "unit_rows": UNIT_ROWS, "chunk_rows": CHUNK_ROWS, "heads": {"logits": head_of(kind)},
        "teacher": TeacherRecord(spec="run:teacher", digest="d"),
        "data": DataRecord(spec="x.npz", fingerprint="f", rows=ROWS),
        "shard_format": kind.partition("-")[2],
    }  # fmt: skip
    return Descriptor(**fields | changes)


def columns(kind: str, rows: range) -> dict[str, np.ndarray]:
    """Return the columns of these rows of a store of this kind."""
    numbers = np.arange(rows.start, rows.stop)
    keys = np.zeros((len(rows), 16), np.uint8)
    keys[:, 0] = numbers
    own: dict[str, np.ndarray] = {"key": keys, "view": np.zeros(len(rows), np.uint32)}
    name, items = kind.partition("-")[0], numbers
    if name == "dense":
        own["logits/values"] = np.sin(numbers[:, None] + np.arange(CLASSES)).astype(np.float16)
        return own
    if name == "ragged":
        own["logits/length"] = (numbers % 3).astype(np.uint32)
        items = np.repeat(numbers, numbers % 3)
    ids = np.stack([items, items + 1, items + 2], axis=1).astype(np.uint16)
    values = np.tile(np.array([-0.5, -1.5, -2.5], np.float16), (len(items), 1))
    own["logits/tail"] = np.full((len(items), 1), -2.0, np.float32)
    if name == "adaptive":
        own["logits/count"] = np.full(len(items), 3, np.dtype(descriptor(kind).columns()["logits/count"].dtype))
        ids, values = ids.reshape(-1), values.reshape(-1)
    return own | {"logits/ids": ids, "logits/values": values}


Rows = Callable[[dict[str, np.ndarray]], Any]


def make(root: Path, kind: str, *, spoil: Rows | None = None, extras: bool = True, **changes: Any) -> Path:
    """A sealed store; ``spoil`` changes the columns of unit 0 before they are written, by the real writer."""
    store = create_or_open(root, descriptor(kind, **changes))
    for unit in list(store.missing()):
        result = columns(kind, store.descriptor.unit_range(unit))
        if unit == 0 and spoil is not None:
            spoil(result)
        with store.begin(unit) as writer:
            writer.append(result)
            writer.commit(extras={"logits/prior": SUMS} if extras and "dense" not in kind else None)
    sl.seal(root)
    return root


def read_all(root: Path) -> list[Any]:
    """Every label of the last snapshot."""
    store = sl.open(root)
    store.keys()
    return [store.read(range(store.rows), head) for head in store.heads]


def record_of(root: Path, unit: int = 0) -> dict[str, Any]:
    """A record as it stands there."""
    return dict(json.loads((root / paths.record_path(unit)).read_bytes()))


def shard_of(root: Path, unit: int = 0) -> Path:
    """The shard of a unit."""
    return next((root / "shards" / "00").glob(f"{unit:08d}-{record_of(root, unit)['attempt']}*"))


def snapshot_of(root: Path) -> dict[str, Any]:
    """The snapshot as it stands there."""
    return dict(json.loads((root / paths.snapshot_path(1)).read_bytes()))


def signed(body: Mapping[str, Any]) -> bytes:
    """A document with its digest made anew."""
    body = {name: value for name, value in body.items() if name != "digest"}
    return canonical_json.to_bytes(body | {"digest": canonical_json.digest(body)})


def same(value: dict[str, Any]) -> None:
    """No change."""


def forge(
    root: Path,
    *,
    descriptor: Change = same,
    record: Change = same,
    snapshot: Change = same,
    chunk: Callable[[bytes], bytes] | None = None,
    footer: Callable[[bytes], bytes] | None = None,
    listed: bytes | None = None,
) -> Path:
    """Change parts of a store (of unit 0 where there are several) and make all hashes over them fit.

    Args:
        root: of the store.
        descriptor: changes the descriptor in place.
        record: changes the record of unit 0 in place.
        snapshot: changes the snapshot in place.
        chunk: from the bytes of the first chunk, other ones.
        footer: from the footer's.
        listed: bytes to put in the place of the table of units.
    """
    about = json.loads((root / paths.DESCRIPTOR).read_bytes())
    descriptor(about)
    (root / paths.DESCRIPTOR).write_bytes(canonical_json.to_bytes(about))
    if chunk is not None or footer is not None:
        _rewrite(root, chunk, footer)
    result = []
    for path in sorted((root / "records" / "00").iterdir()):
        value = json.loads(path.read_bytes()) | {"descriptor": canonical_json.digest(about)}
        if value["unit"] == 0:
            record(value)
        path.write_bytes(signed(value))
        result.append(json.loads(path.read_bytes()))
    sealed = snapshot_of(root) | {"descriptor": canonical_json.digest(about)}
    data = listed if listed is not None else _listed(result)
    if data is not None:
        sealed["table"] = blake3(data).hexdigest()
        (root / paths.table_path(1, sealed["table"])).write_bytes(data)
    snapshot(sealed)
    (root / paths.snapshot_path(1)).write_bytes(signed(sealed))
    return root


def _listed(result: list[dict[str, Any]]) -> bytes | None:
    """The table of records; None where they are too strange to be listed."""
    try:
        rows = np.array([value["rows"] for value in result], np.int64)
        columns = {"unit": [value["unit"] for value in result], "rows": rows, "first_row": np.cumsum(rows) - rows}
        columns |= {name: [value[name] for value in result] for name in ("attempt", "keys")}
        columns |= {name: [value["shard"][name] for value in result] for name in ("size", "blake3")}
        columns["record"] = [value["digest"] for value in result]
        kinds = {name: f"S{width}" if width else np.int64 for name, width in unit_table.COLUMNS.items()}
        return unit_table.to_bytes({name: np.array(columns[name], kind) for name, kind in kinds.items()})
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None


def _rewrite(root: Path, chunk: Callable[[bytes], bytes] | None, footer: Callable[[bytes], bytes] | None) -> None:
    path, value = shard_of(root), record_of(root)
    data, offset = path.read_bytes(), 0
    ranges = [*value["chunks"], value["footer"]]
    segments = [data[item["offset"] : item["offset"] + item["size"]] for item in ranges]
    if chunk is not None:
        segments[0] = chunk(segments[0])
    if footer is not None:
        segments[-1] = footer(segments[-1])
    for item, segment in zip(ranges, segments, strict=True):
        item.update(offset=offset, size=len(segment), blake3=blake3(segment).hexdigest())
        offset += len(segment)
    path.write_bytes(b"".join(segments))
    value["shard"] = {"size": offset, "blake3": blake3(path.read_bytes()).hexdigest()}
    (root / paths.record_path(0)).write_bytes(signed(value))
