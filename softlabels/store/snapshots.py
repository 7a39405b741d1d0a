"""Snapshots: sealing checks that every unit is there and publishes one small file that names them all.

Readers open a snapshot, never the records directly. Its digest is the store's identity: it covers the descriptor, the
table of units (which holds each record's digest, which holds each shard's), the tail priors and the probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays

from softlabels.errors import StoreCorrupt, StoreIncomplete, StoreNotFound
from softlabels.store import canonical, files, layout
from softlabels.store.descriptor import Descriptor
from softlabels.store.gathering import gather
from softlabels.store.records import Record
from softlabels.store.units import read_record
from softlabels.store.writing import read_descriptor

LIMIT = 2**20

TABLE = pa.schema(
    [("unit", pa.int64()), ("first_row", pa.int64()), ("rows", pa.int64()), ("attempt", pa.string()),
     ("size", pa.int64()), ("blake3", pa.string()), ("record", pa.string()), ("keys", pa.string())]
)  # fmt: skip
"""Columns of the table of units; ``record`` is the record's digest."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A sealed state of a store.

    Attributes:
        number: from 1.
        digest: the store's identity.
        previous: digest of the snapshot before; None for the first.
        descriptor: digest of the descriptor.
        rows: in all.
        units: in all.
        bytes: of all shards.
        table: BLAKE3 of the table of units.
        prior: BLAKE3 of the file of tail priors; None where no head has a tail.
        probe: BLAKE3 of the file of dense rows; None where there is none.
        fidelity: by head, how close the labels are to the probe.
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
    fidelity: Mapping[str, Any]


def seal(path: str | Path) -> Snapshot:
    """Publish the committed units of a store; the last snapshot where nothing has changed since.

    Raises:
        StoreNotFound: no store there.
        StoreIncomplete: units are missing; says how many and which come first.
        StoreCorrupt: a record, a shard's size or an extras file is not what it should be.
    """
    root, descriptor = open_root(path)
    units = list(layout.committed_units(root))
    count = len(units) if descriptor.grows else descriptor.units
    if descriptor.grows and not units:
        raise StoreIncomplete(f"{root} has no rows yet; append some, then seal")
    missing = sorted(set(range(count)) - set(units))
    if missing:
        first = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise StoreIncomplete(
            f"{root}: {len(missing)} of {count} units are not committed ({first}); make them again, with generate or "
            "your own loop, then seal"
        )
    found = [read_record(root, unit, descriptor) for unit in range(count)]
    for record in found:
        _check_shard_size(root, descriptor, record)
    table = _table_bytes(found)
    last = _latest(root)
    if last is not None and last.table == blake3(table).hexdigest():
        return last
    number = 1 if last is None else last.number + 1
    priors, probe, fidelity = gather(root, descriptor, found)
    body = {
        "format": "softlabels-snapshot",
        "version": 1,
        "number": number,
        "previous": None if last is None else last.digest,
        "descriptor": descriptor.digest,
        "rows": sum(record.rows for record in found),
        "units": count,
        "bytes": sum(record.size for record in found),
        "table": blake3(table).hexdigest(),
        "prior": _put(root, number, priors, layout.prior_path),
        "probe": _put(root, number, probe, layout.probe_path),
        "fidelity": fidelity,
    }
    files.put_if_absent(root, layout.table_path(root, number, str(body["table"])), table)
    document = canonical.to_bytes(body | {"digest": canonical.digest(body)})
    files.put_if_absent(root, layout.snapshot_path(root, number), document)
    return read_snapshot(root, number)


def open_root(path: str | Path) -> tuple[Path, Descriptor]:
    """The directory and descriptor of a store.

    Raises:
        StoreNotFound: no store there.
    """
    root = Path(path)
    try:
        return root, read_descriptor(root)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFound(f"{root} is no store of labels (it has no {layout.DESCRIPTOR})") from None


def read_snapshot(root: Path, number: int) -> Snapshot:
    """Snapshot ``number``, checked against its own digest.

    Raises:
        StoreNotFound: there is no such snapshot.
        StoreCorrupt: it is damaged.
    """
    path = layout.snapshot_path(root, number)
    try:
        value = canonical.parse(files.read(path, LIMIT), LIMIT)
        body = {name: part for name, part in value.items() if name != "digest"}
        if canonical.digest(body) != value.get("digest"):
            raise ValueError("its digest does not match its content")
        if body["number"] != number:
            raise ValueError(f"it says it is snapshot {body['number']!r}")
        if value.get("format") != "softlabels-snapshot" or value.get("version") != 1:
            raise ValueError(f"its format is {value.get('format')!r}, version {value.get('version')!r}")
        names = Snapshot.__dataclass_fields__
        return Snapshot(**{name: value[name] for name in names})
    except FileNotFoundError:
        raise StoreNotFound(f"{root} has no snapshot {number}") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StoreCorrupt(
            f"{path} is damaged: {error}; delete it and run softlabels seal, or fetch it again"
        ) from error


def read_table(root: Path, snapshot: Snapshot, columns: list[str] | None = None) -> pa.Table:
    """The table of units of a snapshot, checked; all its columns for None.

    Raises:
        StoreCorrupt: missing or damaged.
    """
    path = layout.table_path(root, snapshot.number, snapshot.table)
    try:
        data = files.read(path, 2**32)
        if blake3(data).hexdigest() != snapshot.table:
            raise ValueError("it is not the table that was sealed")
        # One thread and no read-ahead: Arrow's thread pools may abort the process when it exits soon after.
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        table = file.read(columns, use_threads=False)
        if file.schema_arrow != TABLE or table.num_rows != snapshot.units:
            raise ValueError("it does not list the store's units")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreCorrupt(f"{path} is missing or damaged: {error}; run softlabels seal, or fetch it again") from error
    return table


def read_arrays(path: Path, digest: str) -> dict[str, NDArray[Any]]:
    """Arrays kept with a snapshot (tail priors, probe), checked.

    Raises:
        StoreCorrupt: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        data = files.read(path, 2**32)
        if blake3(data).hexdigest() != digest:
            raise ValueError("it is not what was sealed")
        return dict(load_arrays(data))
    except (OSError, ValueError, SafetensorError) as error:
        raise StoreCorrupt(f"{path} is missing or damaged: {error}; fetch it again") from None


def _latest(root: Path) -> Snapshot | None:
    numbers = layout.snapshot_numbers(root)
    return read_snapshot(root, numbers[-1]) if numbers else None


def _check_shard_size(root: Path, descriptor: Descriptor, record: Record) -> None:
    path = layout.shard_path(root, record.unit, record.attempt, descriptor.shard_format)
    size = path.stat().st_size if path.is_file() else None
    if size != record.size:
        what = "is missing" if size is None else f"has {size:,} bytes where {record.size:,} were committed"
        raise StoreCorrupt(f"{path} {what}; run softlabels repair, then generate again")


def _table_bytes(found: list[Record]) -> bytes:
    rows = [record.rows for record in found]
    columns = [
        [record.unit for record in found],
        list(accumulate([0, *rows[:-1]])),
        rows,
        [record.attempt for record in found],
        [record.size for record in found],
        [record.blake3 for record in found],
        [record.digest for record in found],
        [record.keys for record in found],
    ]
    buffer = BytesIO()
    table = pa.table(columns, schema=TABLE)
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return buffer.getvalue()


def _put(root: Path, number: int, arrays: dict[str, NDArray[Any]], name: Any) -> str | None:
    """Keep arrays with the snapshot under a name that holds their hash; the hash, or None for no arrays."""
    if not arrays:
        return None
    data = save_arrays({key: np.ascontiguousarray(array) for key, array in arrays.items()})
    digest = str(blake3(data).hexdigest())
    files.put_if_absent(root, name(root, number, digest), data)
    return digest
