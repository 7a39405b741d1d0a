"""What sealing makes of the evidence that units left: tail priors, the probe, and how faithful the labels are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import rows as ragged
from softlabels.encodings.tail import tail_prior
from softlabels.errors import StoreCorrupt
from softlabels.labels import DISTRIBUTIONS, SoftLabels
from softlabels.store import evidence, layout
from softlabels.store.codebooks import read_codebook
from softlabels.store.damage import MEND, refused
from softlabels.store.descriptor import LENGTH, Descriptor
from softlabels.store.fidelity import as_rows, combine, measure
from softlabels.store.records import Record
from softlabels.store.units import UnitReader, head_arrays


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
            if evidence.PRIOR in arrays and evidence.gathers(descriptor, np.array([record.unit]), len(found))[0]:
                sums.setdefault(head, []).append(arrays[evidence.PRIOR])
            if evidence.PROBE in arrays:
                local = arrays[evidence.PROBE_NUMBERS]
                nominal = record.unit * descriptor.unit_rows + local
                chosen = evidence.probes(descriptor, head, nominal, len(found) * descriptor.unit_rows)
                chosen |= not descriptor.grows
                kept.setdefault(f"{head}/rows", []).append(starts[record.unit] + local[chosen])
                kept.setdefault(f"{head}/logits", []).append(arrays[evidence.PROBE][chosen])
                if evidence.PROBE_POSITIONS in arrays:
                    kept.setdefault(f"{head}/positions", []).append(arrays[evidence.PROBE_POSITIONS][chosen])
    priors = {head: tail_prior(parts, descriptor.heads[head].classes) for head, parts in sums.items()}
    probe = {name: np.concatenate(parts) for name, parts in kept.items() if sum(map(len, parts))}
    for head in descriptor.heads:  # merged stores bring a probe each
        keep = evidence.thinned(len(probe.get(f"{head}/rows", ())), evidence.most_probed(descriptor, head))
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
    with refused(layout.extras_path(root, record.unit, record.attempt), MEND):
        extras = UnitReader(root, descriptor, record).read_extras()
        return evidence.split_extras(extras, descriptor, record.rows)


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
