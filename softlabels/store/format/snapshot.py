"""Snapshots: sealing checks that every unit is there and publishes one small file that names them all.

Readers open a snapshot, never the records directly. Its digest is the store's identity: it covers the descriptor, the
table of units (which holds each record's digest, which holds each shard's), the tail priors and the probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import StoreNotFound
from softlabels.store.format import array_file, canonical_json, paths, unit_table
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.fields import Fields
from softlabels.store.format.head_fidelity import HeadFidelity
from softlabels.store.format.limits import MAX_ROWS, MAX_SHARD_BYTES, MAX_SNAPSHOT_BYTES, MAX_UNITS
from softlabels.store.storage.read_errors import SEAL, read_errors
from softlabels.store.storage.storage import Storage

PROBE_ADVICE = f"{SEAL}; labels can be read and trained from without the probe, which plan and verify need"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A sealed state of a store.

    Attributes:
        number: Number of the snapshot, from 1.
        digest: Digest of the snapshot, which is the identity of the store.
        previous: Digest of the snapshot before; None for the first.
        descriptor: Digest of the descriptor.
        rows: Number of rows that have labels.
        units: Number of units.
        bytes: Bytes of all shards.
        table: BLAKE3 of the table of units.
        prior: BLAKE3 of the file of tail priors; None if no head has a tail.
        probe: BLAKE3 of the file of dense rows; None if there is none.
        fidelity: Fidelity by head; absent for heads that are not distributions.
        skipped: Number of rows without labels, which `rows` does not count.
    """

    number: int
    digest: str
    previous: str | None
    descriptor: str
    rows: int
    units: int
    bytes: int
    table: str
    prior: str | None
    probe: str | None
    fidelity: Mapping[str, HeadFidelity]
    skipped: int = 0


def read_snapshot(storage: Storage, number: int) -> Snapshot:
    """Return snapshot ``number``, checked against its own digest.

    Raises:
        StoreNotFound: There is no such snapshot.
        StoreCorrupt: The snapshot is damaged.
    """
    name = paths.snapshot_path(number)
    with read_errors(storage.locate(name), SEAL, StoreNotFound):
        return _parse(storage.read(name, MAX_SNAPSHOT_BYTES), number)


def _parse(data: bytes, number: int) -> Snapshot:
    value = canonical_json.parse_signed(data, MAX_SNAPSHOT_BYTES)
    if value.get("format") != "softlabels-snapshot" or value.get("version") not in (1, 2):
        raise ValueError(f"its format is {value.get('format')!r}, version {value.get('version')!r}")
    fields = Fields(value)
    if fields.get("number") != number:
        raise ValueError(f"it says it is snapshot {fields.get('number')!r:.40}")
    fidelity = fields.object("fidelity")
    units = fields.integer("units", 1, MAX_UNITS)
    lacks_rows = value["version"] == 2
    return Snapshot(
        number=number,
        digest=value["digest"],
        previous=fields.optional_hash("previous"),
        descriptor=fields.hash("descriptor"),
        rows=fields.integer("rows", 1 if lacks_rows else units, MAX_ROWS),
        units=units,
        bytes=fields.integer("bytes", 1, MAX_UNITS * MAX_SHARD_BYTES),
        table=fields.hash("table"),
        prior=fields.optional_hash("prior"),
        probe=fields.optional_hash("probe"),
        fidelity={head: HeadFidelity.from_json(fidelity.object(head)) for head in fidelity},
        skipped=fields.integer("skipped", 1, MAX_ROWS) if lacks_rows else 0,
    )


def read_table(
    storage: Storage, snapshot: Snapshot, columns: Sequence[str] = tuple(unit_table.COLUMNS)
) -> dict[str, NDArray[Any]]:
    """Return columns of the table of units of a snapshot, checked; see unit_table.parse.

    Raises:
        StoreCorrupt: The file is missing or damaged.
    """
    name = paths.table_path(snapshot.number, snapshot.table)
    with read_errors(storage.locate(name), SEAL):
        data = storage.read(name, unit_table.limit(snapshot.units))
        if blake3(data).hexdigest() != snapshot.table:
            raise ValueError("it is not the table that was sealed")
        return unit_table.parse(data, snapshot.units, columns)


def read_prior(storage: Storage, snapshot: Snapshot) -> dict[str, NDArray[Any]]:
    """Return the tail priors of a snapshot by head; empty if it has none.

    Raises:
        StoreCorrupt: The file is missing or damaged.
    """
    if snapshot.prior is None:
        return {}
    return array_file.read(storage, paths.prior_path(snapshot.number, snapshot.prior), snapshot.prior, SEAL)


def read_probe(storage: Storage, snapshot: Snapshot, descriptor: Descriptor) -> dict[str, NDArray[Any]]:
    """Return the dense rows of a snapshot; empty if it has none. StoreCorrupt as for read_prior."""
    if snapshot.probe is None:
        return {}
    name = paths.probe_path(snapshot.number, snapshot.probe)
    arrays = array_file.read(storage, name, snapshot.probe, PROBE_ADVICE)
    with read_errors(storage.locate(name), PROBE_ADVICE):
        for head in {array.partition("/")[0] for array in arrays}:
            _check_probe(arrays, head, descriptor, snapshot.rows)
    return arrays


def _check_probe(arrays: Mapping[str, NDArray[Any]], head: str, descriptor: Descriptor, rows: int) -> None:
    """Raise ValueError unless the dense rows of a head are as many as they say, ascending, and of its shape."""
    kind = descriptor.heads.get(head)
    numbers = arrays.get(f"{head}/rows")
    if kind is None or numbers is None:
        raise ValueError(f"dense rows of {head!r} that belong to nothing")
    count = numbers.size
    expected: dict[str, tuple[tuple[int, ...], type]] = {
        "rows": ((count,), np.int64), "logits": ((count, *kind.position_shape, kind.classes), np.float32),
    }  # fmt: skip
    if kind.ragged:
        expected["positions"] = ((count,), np.int64)
    for name, (shape, dtype) in expected.items():
        array = arrays.get(f"{head}/{name}")
        if array is None or array.shape != shape or array.dtype != dtype:
            raise ValueError(f"no {head}/{name} of shape {shape}")
    if (np.diff(numbers, prepend=-1, append=rows) <= 0).any():
        raise ValueError(f"the dense rows of {head!r} are no ascending rows of the store")
