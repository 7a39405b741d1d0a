"""What sealing makes of the evidence that units left: tail priors, the probe, and how faithful the labels are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings.tail import tail_prior
from softlabels.errors import StoreCorrupt, StoreIncomplete
from softlabels.fidelity import as_rows, combine, measure
from softlabels.labels import DISTRIBUTIONS, SoftLabels
from softlabels.store import unit_statistics
from softlabels.store.format import array_file, canonical_json, paths, unit_table
from softlabels.store.format.codebooks import read_codebook
from softlabels.store.format.descriptor import LENGTH, Descriptor, open_with_descriptor
from softlabels.store.format.record import Record, read_record
from softlabels.store.format.snapshot import Snapshot, read_snapshot
from softlabels.store.storage.read_errors import REPAIR, read_errors
from softlabels.store.storage.storage import Location, Storage
from softlabels.store.unit_reader import UnitReader, head_arrays


def gather(
    storage: Storage, descriptor: Descriptor, found: list[Record]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], dict[str, Any]]:
    """Tail priors, probe and fidelity by head, from the units that carry evidence, in their order.

    Args:
        storage: Storage of the store.
        descriptor: Descriptor of the store.
        found: Records of all units, ascending.

    Raises:
        StoreCorrupt: the evidence of a unit is damaged.
    """
    starts = np.cumsum([0] + [record.rows for record in found])
    sums: dict[str, list[NDArray[Any]]] = {}
    kept: dict[str, list[NDArray[Any]]] = {}
    for record in found:
        for head, arrays in _evidence_of(storage, descriptor, record).items():
            if (
                unit_statistics.PRIOR in arrays
                and unit_statistics.gathers(descriptor, np.array([record.unit]), len(found))[0]
            ):
                sums.setdefault(head, []).append(arrays[unit_statistics.PRIOR])
            if unit_statistics.PROBE in arrays:
                local = arrays[unit_statistics.PROBE_NUMBERS]
                nominal = record.unit * descriptor.unit_rows + local
                chosen = unit_statistics.probes(descriptor, head, nominal, len(found) * descriptor.unit_rows)
                chosen |= not descriptor.grows
                kept.setdefault(f"{head}/rows", []).append(starts[record.unit] + local[chosen])
                kept.setdefault(f"{head}/logits", []).append(arrays[unit_statistics.PROBE][chosen])
                if unit_statistics.PROBE_POSITIONS in arrays:
                    kept.setdefault(f"{head}/positions", []).append(arrays[unit_statistics.PROBE_POSITIONS][chosen])
    priors = {head: tail_prior(parts, descriptor.heads[head].classes) for head, parts in sums.items()}
    probe = {name: np.concatenate(parts) for name, parts in kept.items() if sum(map(len, parts))}
    for head in descriptor.heads:  # merged stores bring a probe each
        keep = unit_statistics.thinned(
            len(probe.get(f"{head}/rows", ())), unit_statistics.most_probed(descriptor, head)
        )
        probe |= {name: array[keep] for name, array in probe.items() if name.rpartition("/")[0] == head}
    fidelity = {}
    for head, kind in descriptor.heads.items():
        if kind.kind in DISTRIBUTIONS and (
            measured := _fidelity(storage, descriptor, found, head, probe, _prior(storage, descriptor, head, priors))
        ):
            fidelity[head] = measured
    return {f"{head}/prior": array for head, array in priors.items()}, probe, fidelity


def _evidence_of(storage: Storage, descriptor: Descriptor, record: Record) -> dict[str, dict[str, NDArray[Any]]]:
    if record.extras is None:
        return {}
    with read_errors(storage.locate(paths.extras_path(record.unit, record.attempt)), REPAIR):
        extras = UnitReader(storage, descriptor, record).read_extras()
        return unit_statistics.split_extras(extras, descriptor, record.rows)


def _prior(
    storage: Storage, descriptor: Descriptor, head: str, gathered: dict[str, NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    codebook = read_codebook(storage, descriptor, head)
    return gathered.get(head) if codebook is None else codebook.priors


def _fidelity(
    storage: Storage,
    descriptor: Descriptor,
    found: list[Record],
    head: str,
    probe: dict[str, NDArray[Any]],
    prior: NDArray[np.float32] | None,
) -> dict[str, Any]:
    """A head's fidelity on the probe, and what its units measured themselves (without a prior); {} for neither."""
    kind = descriptor.heads[head]
    measured: dict[str, Any] = {}
    if f"{head}/rows" in probe:
        columns = _columns_of(storage, descriptor, found, head, probe[f"{head}/rows"])
        lengths = columns.pop(LENGTH, None)
        labels: SoftLabels = descriptor.encoding(head).decode(columns, kind, prior)
        if lengths is not None:
            positions = probe[f"{head}/positions"]
            if (positions >= lengths).any():
                raise StoreCorrupt(f"the extras of {storage} keep positions of {head!r} that its rows lack; {REPAIR}")
            labels = as_rows(labels, lengths, positions)
        measured = measure(probe[f"{head}/logits"], labels, kind.temperatures).to_json()
    by_unit = [(record.fidelity[head], record.unit) for record in found if head in record.fidelity]
    if by_unit:
        poorest, unit = min(by_unit, key=lambda pair: pair[0].mass)
        units = combine([part for part, _ in by_unit]).to_json() | {"poorest": {"unit": unit} | poorest.to_json()}
        measured = (measured or dict(units)) | {"units": units}
    return measured


def _columns_of(
    storage: Storage, descriptor: Descriptor, found: list[Record], head: str, numbers: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """A head's columns of the rows ``numbers``, ascending, read from the shards."""
    pieces: list[dict[str, NDArray[Any]]] = []
    schema = descriptor.columns()
    names = [name for name in descriptor.columns() if name.startswith(f"{head}/")]
    starts = np.cumsum([0] + [record.rows for record in found])
    unit_of = np.searchsorted(starts, numbers, side="right") - 1
    for unit in np.unique(unit_of):
        local = numbers[unit_of == unit] - starts[unit]
        reader = UnitReader(storage, descriptor, found[unit])
        for chunk in np.unique(local // descriptor.chunk_rows):
            inside = local[local // descriptor.chunk_rows == chunk] - chunk * descriptor.chunk_rows
            pieces.append(ragged.take(reader.read_chunk(int(chunk), names), schema, inside))
    return head_arrays(ragged.join(pieces), head)


def seal(location: Location) -> Snapshot:
    """Publish a snapshot of the committed units of a store.

    The snapshot that is returned is durable and holds every unit that was committed before the call. If several
    processes seal at once, each returns such a snapshot.

    Args:
        location: Location of the store.

    Returns:
        The new snapshot, or the last one if nothing has changed since.

    Raises:
        StoreNotFound: There is no store.
        StoreIncomplete: Units are missing; the message says how many and which come first.
        StoreCorrupt: A record, the size of a shard or an extras file is not what was committed.

    Example:
        >>> seal("labels").number  # doctest: +SKIP
        1
    """
    storage, descriptor = open_with_descriptor(location)
    snapshot = None
    while snapshot is None:
        snapshot = _seal_once(storage, descriptor)
    return snapshot


def _seal_once(storage: Storage, descriptor: Descriptor) -> Snapshot | None:
    """Publish a snapshot; returns None if another process published one meanwhile, which may lack newer units."""
    # Before the units are listed: what an existing snapshot holds is then part of the list.
    last = _latest(storage)
    units = paths.durable_units(storage)
    count = len(units) if descriptor.grows else descriptor.units
    if descriptor.grows and not units:
        raise StoreIncomplete(f"{storage} has no rows yet; append some, then seal")
    missing = sorted(set(range(count)) - set(units))
    if missing:
        first = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise StoreIncomplete(
            f"{storage}: {len(missing)} of {count} units are not committed ({first}); make them again, with "
            "generate or your own loop, then seal"
        )
    found = [read_record(storage, unit, descriptor) for unit in range(count)]
    for record in found:
        _check_shard_size(storage, descriptor, record)
    listed = unit_table.to_bytes(found)
    if last is not None and last.table == blake3(listed).hexdigest():
        return last
    number = 1 if last is None else last.number + 1
    priors, probe, fidelity = gather(storage, descriptor, found)
    body = {
        "format": "softlabels-snapshot",
        "version": 1,
        "number": number,
        "previous": None if last is None else last.digest,
        "descriptor": descriptor.digest,
        "rows": sum(record.rows for record in found),
        "units": count,
        "bytes": sum(record.size for record in found),
        "table": blake3(listed).hexdigest(),
        "prior": _put(storage, number, priors, paths.prior_path),
        "probe": _put(storage, number, probe, paths.probe_path),
        "fidelity": fidelity,
    }
    storage.put_if_absent(paths.table_path(number, str(body["table"])), listed)
    document = canonical_json.to_bytes(body | {"digest": canonical_json.digest(body)})
    return read_snapshot(storage, number) if storage.put_if_absent(paths.snapshot_path(number), document) else None


def _latest(storage: Storage) -> Snapshot | None:
    """Return the last snapshot, made durable; None if there is none."""
    numbers = paths.snapshot_numbers(storage)
    if not numbers:
        return None
    storage.settle(paths.SNAPSHOTS)
    return read_snapshot(storage, numbers[-1])


def _check_shard_size(storage: Storage, descriptor: Descriptor, record: Record) -> None:
    name = paths.shard_path(record.unit, record.attempt, descriptor.shard_format)
    info = storage.info(name)
    if info is None or info.size != record.size:
        what = "is missing" if info is None else f"has {info.size:,} bytes where {record.size:,} were committed"
        raise StoreCorrupt(f"{storage.locate(name)} {what}; {REPAIR}")


def _put(storage: Storage, number: int, arrays: dict[str, NDArray[Any]], name: Callable[[int, str], str]) -> str | None:
    """Keep arrays with the snapshot under a name that holds their hash; the hash, or None for no arrays."""
    if not arrays:
        return None
    data, digest = array_file.to_bytes(arrays)
    storage.put_if_absent(name(number, digest), data)
    return digest
