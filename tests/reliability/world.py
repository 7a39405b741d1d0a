"""A small store whose only right content is known: what every experiment writes, reads back and judges by."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from softlabels.encodings import Codebook, parse
from softlabels.labels import Head
from softlabels.store import DataRecord, Descriptor, StoreWriter, TeacherRecord, create_or_open, open_storage
from softlabels.store.format import paths
from softlabels.store.format.codebooks import digest_of
from softlabels.store.format.record import read_record
from softlabels.store.unit_reader import UnitReader

UNIT_ROWS = 6
CHUNK_ROWS = 4
TEMPORARY = Path("/dev/shm")  # noqa: S108  memory where there is any: kills and cuts need no disk


LABELS = {
    "topk": "topk:3:f16", "adaptive": "adaptive:0.01:f16:2", "threshold": "threshold:0.05",
    "counts": "counts:20:0.005:2",
}  # fmt: skip
"""Contents of rows: three classes, as many as are likely with a codebook, a sample, and draws under ranks."""
CODEBOOKS = {"adaptive", "counts"}
"""Labels whose head has a codebook."""
CODEBOOK = Codebook(np.stack([np.full((1, 300), 1 / 300), np.arange(1, 301)[None] / 45150], axis=1).astype(np.float32))


@functools.cache
def descriptor(units: int, shard_format: str = "zarr", labels: str = "topk") -> Descriptor:
    """A store of ``units`` units."""
    rows = units * UNIT_ROWS
    codebook = digest_of(CODEBOOK) if labels in CODEBOOKS else None
    spec = parse(LABELS[labels], classes=300).spec
    return Descriptor(
        rows=rows, unit_rows=UNIT_ROWS, chunk_rows=CHUNK_ROWS, shard_format=shard_format, codec="lz4",
        heads={"logits": Head(encoding=spec, classes=300, codebook=codebook)},
        teacher=TeacherRecord(spec="t", digest="d"), data=DataRecord(spec="x", fingerprint="f", rows=rows),
    )  # fmt: skip


def content(unit: int, labels: str = "topk") -> dict[str, np.ndarray]:
    """The only right content of a unit."""
    rows = np.arange(unit * UNIT_ROWS, (unit + 1) * UNIT_ROWS)
    keys = np.zeros((UNIT_ROWS, 16), np.uint8)
    keys[:, :8] = rows.astype("<u8").view(np.uint8).reshape(-1, 8)
    first = rows % 298
    own = {"key": keys, "view": np.zeros(UNIT_ROWS, np.uint32)}
    ids = np.stack([first, first + 1, first + 2], axis=1).astype(np.uint16)
    values = np.tile(np.array([-0.5, -1.5, -2.5], np.float16), (UNIT_ROWS, 1))
    tail = np.full((UNIT_ROWS, 1), -2.0, np.float32)
    if labels == "topk":
        return own | {"logits/ids": ids, "logits/values": values, "logits/tail": tail}
    if labels == "counts":
        return own | _draws(rows)
    counts = (1 + rows % 3).astype(np.uint16)
    listed = np.arange(3) < counts[:, None]
    own |= {"logits/count": counts, "logits/ids": ids[listed]}
    if labels == "adaptive":
        return own | {"logits/values": values[listed], "logits/tail": tail, "logits/prior": (rows % 2).astype(np.uint8)}
    # A probability of 0.6, a second one of the threshold, and one drawn class.
    listed_counts = np.maximum(counts - 1, 1).astype(np.uint16)
    codes = np.tile(np.array([7, 43], np.uint8), (UNIT_ROWS, 1))[np.arange(2) < listed_counts[:, None]]
    dither = (rows.astype(np.uint64) * 2654435769).astype(np.uint32)
    return own | {"logits/listed": listed_counts, "logits/codes": codes, "logits/dither": dither}


def _draws(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of ``counts``: one to three near ranks and up to two far ones, with fewer draws than there may be."""
    near, far = (1 + rows % 3).astype(np.uint8), (rows % 3).astype(np.uint8)
    columns = {
        "prior": rows % 2, "near": near, "near_gaps": np.repeat(rows % 80, near),
        "near_draws": np.repeat(rows % 4, near),
        "far": far, "far_blocks": np.zeros(far.sum()), "far_offsets": np.concatenate([9 * np.arange(n) for n in far]),
        "far_draws": np.repeat(rows % 2, far),
    }  # fmt: skip
    return {f"logits/{name}": values.astype(np.uint8) for name, values in columns.items()}


def commit(store: StoreWriter, unit: int, *, extras: bool = False) -> bool:
    """Write and commit a unit as a generator does."""
    with store.begin(unit) as writer:
        writer.append(content(unit, labels_of(store.descriptor)))
        sums = {"logits/prior": np.ones((2, 1, 300), np.float32)} if extras else None
        return writer.commit(extras=sums)


def labels_of(store: Descriptor) -> str:
    """Return the kind of labels of a store."""
    return store.heads["logits"].encoding.partition(":")[0]


def open_store(root: Path, units: int, shard_format: str = "zarr", labels: str = "topk") -> StoreWriter:
    """The store at ``root``, made where there is none."""
    codebooks = {"logits": CODEBOOK} if labels in CODEBOOKS else {}
    return create_or_open(root, descriptor(units, shard_format, labels), codebooks)


def warm_up(shard_format: str, labels: str = "topk") -> None:
    """Commit and read a unit, so that everything that is loaded late is there."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "store", 1, shard_format, labels)
        commit(store, 0, extras=True)
        judge(Path(folder) / "store", store.descriptor)


def judge(root: Path, store: Descriptor, units: Iterable[int] | None = None) -> set[int]:
    """The committed units, once each of ``units`` (by default all of them) is sure to hold its only right content."""
    committed = list(paths.committed_units(open_storage(root)))
    if len(committed) != len(set(committed)):
        raise AssertionError(f"a unit is listed twice: {committed}")
    for unit in committed if units is None else units:
        reader = UnitReader(open_storage(root), store, read_record(open_storage(root), unit, store))
        parts = [reader.read_chunk(number) for number in range(len(reader.record.chunks))]
        for name, expected in content(unit, labels_of(store)).items():
            if not np.array_equal(np.concatenate([chunk[name] for chunk in parts]), expected):
                raise AssertionError(f"unit {unit} holds other values than it should in {name}")
        reader.read_extras()
    return set(committed)


def records(root: Path) -> dict[int, bytes]:
    """Bytes of every record."""
    return {unit: (root / paths.record_path(unit)).read_bytes() for unit in paths.committed_units(open_storage(root))}
