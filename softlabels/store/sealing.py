"""What sealing makes of the evidence that units left: tail priors, the probe, and how faithful the labels are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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
from softlabels.store.format.descriptor import LENGTH, Descriptor, open_root
from softlabels.store.format.record import Record, read_record
from softlabels.store.format.snapshot import Snapshot, read_snapshot
from softlabels.store.storage import posix
from softlabels.store.storage.read_errors import MEND, refused
from softlabels.store.unit_reader import UnitReader, head_arrays


def gather(
    root: Path, descriptor: Descriptor, found: list[Record]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], dict[str, Any]]:
    """Tail priors, probe and fidelity by head, from the units that carry evidence, in their order.

    Args:
        root: of the store.
        descriptor: of the store.
        found: the records of all units.

    Raises:
        StoreCorrupt: the evidence of a unit is damaged.
    """
    starts = np.cumsum([0] + [record.rows for record in found])
    sums: dict[str, list[NDArray[Any]]] = {}
    kept: dict[str, list[NDArray[Any]]] = {}
    for record in found:
        for head, arrays in _evidence_of(root, descriptor, record).items():
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
            measured := _fidelity(root, descriptor, found, head, probe, _prior(root, descriptor, head, priors))
        ):
            fidelity[head] = measured
    return {f"{head}/prior": array for head, array in priors.items()}, probe, fidelity


def _evidence_of(root: Path, descriptor: Descriptor, record: Record) -> dict[str, dict[str, NDArray[Any]]]:
    if record.extras is None:
        return {}
    with refused(paths.extras_path(root, record.unit, record.attempt), MEND):
        extras = UnitReader(root, descriptor, record).read_extras()
        return unit_statistics.split_extras(extras, descriptor, record.rows)


def _prior(
    root: Path, descriptor: Descriptor, head: str, gathered: dict[str, NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    codebook = read_codebook(root, descriptor, head)
    return gathered.get(head) if codebook is None else codebook.priors


def _fidelity(
    root: Path,
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
        columns = _columns_of(root, descriptor, found, head, probe[f"{head}/rows"])
        lengths = columns.pop(LENGTH, None)
        labels: SoftLabels = descriptor.encoding(head).decode(columns, kind, prior)
        if lengths is not None:
            positions = probe[f"{head}/positions"]
            if (positions >= lengths).any():
                raise StoreCorrupt(f"the extras of {root} keep positions of {head!r} that its rows lack; {MEND}")
            labels = as_rows(labels, lengths, positions)
        measured = measure(probe[f"{head}/logits"], labels, kind.temperatures).to_json()
    by_unit = [(record.fidelity[head], record.unit) for record in found if head in record.fidelity]
    if by_unit:
        poorest, unit = min(by_unit, key=lambda pair: pair[0].mass)
        units = combine([part for part, _ in by_unit]).to_json() | {"poorest": {"unit": unit} | poorest.to_json()}
        measured = (measured or dict(units)) | {"units": units}
    return measured


def _columns_of(
    root: Path, descriptor: Descriptor, found: list[Record], head: str, numbers: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """A head's columns of the rows ``numbers``, ascending, read from the shards."""
    pieces: list[dict[str, NDArray[Any]]] = []
    schema = descriptor.columns()
    names = [name for name in descriptor.columns() if name.startswith(f"{head}/")]
    starts = np.cumsum([0] + [record.rows for record in found])
    unit_of = np.searchsorted(starts, numbers, side="right") - 1
    for unit in np.unique(unit_of):
        local = numbers[unit_of == unit] - starts[unit]
        reader = UnitReader(root, descriptor, found[unit])
        for chunk in np.unique(local // descriptor.chunk_rows):
            inside = local[local // descriptor.chunk_rows == chunk] - chunk * descriptor.chunk_rows
            pieces.append(ragged.take(reader.read_chunk(int(chunk), names), schema, inside))
    return head_arrays(ragged.join(pieces), head)


def seal(path: str | Path) -> Snapshot:
    """Publish the committed units of a store; the last snapshot where nothing has changed since.

    Raises:
        StoreNotFound: no store there.
        StoreIncomplete: units are missing; says how many and which come first.
        StoreCorrupt: a record, a shard's size or an extras file is not what it should be.
    """
    root, descriptor = open_root(path)
    units = list(paths.committed_units(root))
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
    listed = unit_table.to_bytes(found)
    last = _latest(root)
    if last is not None and last.table == blake3(listed).hexdigest():
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
        "table": blake3(listed).hexdigest(),
        "prior": _put(root, number, priors, paths.prior_path),
        "probe": _put(root, number, probe, paths.probe_path),
        "fidelity": fidelity,
    }
    posix.put_if_absent(root, paths.table_path(root, number, str(body["table"])), listed)
    document = canonical_json.to_bytes(body | {"digest": canonical_json.digest(body)})
    posix.put_if_absent(root, paths.snapshot_path(root, number), document)
    return read_snapshot(root, number)


def _latest(root: Path) -> Snapshot | None:
    numbers = paths.snapshot_numbers(root)
    return read_snapshot(root, numbers[-1]) if numbers else None


def _check_shard_size(root: Path, descriptor: Descriptor, record: Record) -> None:
    path = paths.shard_path(root, record.unit, record.attempt, descriptor.shard_format)
    size = posix.size(path)
    if size != record.size:
        what = "is missing" if size is None else f"has {size:,} bytes where {record.size:,} were committed"
        raise StoreCorrupt(f"{path} {what}; {MEND}")


def _put(root: Path, number: int, found: dict[str, NDArray[Any]], name: Callable[[Path, int, str], Path]) -> str | None:
    """Keep arrays with the snapshot under a name that holds their hash; the hash, or None for no arrays."""
    if not found:
        return None
    data, digest = array_file.to_bytes(found)
    posix.put_if_absent(root, name(root, number, digest), data)
    return digest
