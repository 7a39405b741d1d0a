"""A small store whose only right content is known: what every experiment writes, reads back and judges by."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from softlabels.labels import Head
from softlabels.store import Descriptor, StoreWriter, create_or_open, layout
from softlabels.store.units import UnitReader, read_record

UNIT_ROWS = 6
CHUNK_ROWS = 4
TEMPORARY = Path("/dev/shm")  # noqa: S108  memory where there is any: kills and cuts need no disk


def descriptor(units: int, shard_format: str = "zarr") -> Descriptor:
    """A store of ``units`` units."""
    rows = units * UNIT_ROWS
    return Descriptor(
        rows=rows, unit_rows=UNIT_ROWS, chunk_rows=CHUNK_ROWS, shard_format=shard_format, codec="lz4",
        heads={"logits": Head(encoding="topk:3:f16", classes=300)},
        teacher={"spec": "t", "digest": "d"}, data={"spec": "x", "fingerprint": "f", "rows": rows},
    )  # fmt: skip


def content(unit: int) -> dict[str, np.ndarray]:
    """The only right content of a unit."""
    rows = np.arange(unit * UNIT_ROWS, (unit + 1) * UNIT_ROWS)
    keys = np.zeros((UNIT_ROWS, 16), np.uint8)
    keys[:, :8] = rows.astype("<u8").view(np.uint8).reshape(-1, 8)
    first = rows % 298
    return {
        "key": keys,
        "view": np.zeros(UNIT_ROWS, np.uint32),
        "logits/ids": np.stack([first, first + 1, first + 2], axis=1).astype(np.uint16),
        "logits/values": np.tile(np.array([-0.5, -1.5, -2.5], np.float16), (UNIT_ROWS, 1)),
        "logits/tail": np.full((UNIT_ROWS, 1), -2.0, np.float32),
    }


def commit(store: StoreWriter, unit: int, *, extras: bool = False) -> bool:
    """Write and commit a unit as a generator does."""
    with store.begin(unit) as writer:
        writer.append(content(unit))
        kept = {"logits/prior": np.ones((1, 300), np.float32)} if extras else None
        return writer.commit(extras=kept)


def open_store(root: Path, units: int, shard_format: str = "zarr") -> StoreWriter:
    """The store at ``root``, made where there is none."""
    return create_or_open(root, descriptor(units, shard_format))


def warm_up(shard_format: str) -> None:
    """Commit and read a unit, so that everything that is loaded late is there."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "store", 1, shard_format)
        commit(store, 0, extras=True)
        judge(store.root, store.descriptor)


def judge(root: Path, store: Descriptor, units: Iterable[int] | None = None) -> set[int]:
    """The committed units, once each of ``units`` (by default all of them) is sure to hold its only right content."""
    committed = list(layout.committed_units(root))
    if len(committed) != len(set(committed)):
        raise AssertionError(f"a unit is listed twice: {committed}")
    for unit in committed if units is None else units:
        reader = UnitReader(root, store, read_record(root, unit, store))
        parts = [reader.read_chunk(number) for number in range(len(reader.record.chunks))]
        for name, expected in content(unit).items():
            if not np.array_equal(np.concatenate([part[name] for part in parts]), expected):
                raise AssertionError(f"unit {unit} holds other values than it should in {name}")
        reader.read_extras()
    return set(committed)


def records(root: Path) -> dict[int, bytes]:
    """Bytes of every record."""
    return {unit: layout.record_path(root, unit).read_bytes() for unit in layout.committed_units(root)}
