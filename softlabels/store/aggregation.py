"""Statistics of a whole store, aggregated from those of its units."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings.tail import tail_prior
from softlabels.errors import StoreCorrupt
from softlabels.fidelity import Fidelity, as_rows, measure
from softlabels.labels import DISTRIBUTIONS, SoftLabels
from softlabels.store import unit_statistics
from softlabels.store.chunk_index import ChunkIndex
from softlabels.store.committed import CommittedUnits
from softlabels.store.format import paths
from softlabels.store.format.codebooks import read_codebook
from softlabels.store.format.descriptor import LENGTH, Descriptor
from softlabels.store.format.head_fidelity import HeadFidelity
from softlabels.store.format.record import Record
from softlabels.store.storage.read_errors import REPAIR, read_errors
from softlabels.store.storage.storage import Storage
from softlabels.store.unit_reader import UnitReader, head_arrays


class Aggregate(NamedTuple):
    """Statistics of a store.

    Attributes:
        priors: Tail priors, ``HEAD/prior`` (temperatures, C).
        probe: Rows that are stored dense: ``HEAD/rows``, ``HEAD/logits`` and, of ragged heads, ``HEAD/positions``.
        fidelity: Fidelity of each head that is a distribution.
    """

    priors: dict[str, NDArray[Any]]
    probe: dict[str, NDArray[Any]]
    fidelity: dict[str, HeadFidelity]


def aggregate(storage: Storage, descriptor: Descriptor, committed: CommittedUnits) -> Aggregate:
    """Aggregate the statistics of all units, in their order.

    Args:
        storage: Storage of the store.
        descriptor: Descriptor of the store.
        committed: Figures of all units.

    Raises:
        StoreCorrupt: The extras or a shard of a unit are damaged.
    """
    sums: dict[str, list[NDArray[Any]]] = {}
    arrays: dict[str, list[NDArray[Any]]] = {}
    rows_of_units = committed.columns["rows"]
    first_rows = np.cumsum(rows_of_units) - rows_of_units
    for unit in committed.with_extras:
        record = committed.record(storage, descriptor, unit)
        for head, statistics in _statistics_of(storage, descriptor, record).items():
            units = np.array([unit])
            if unit_statistics.PRIOR in statistics and unit_statistics.gathers(descriptor, units, len(committed))[0]:
                sums.setdefault(head, []).append(statistics[unit_statistics.PRIOR])
            for name, rows in _probe_of(descriptor, record, head, statistics, len(committed)).items():
                arrays.setdefault(name, []).append(rows + first_rows[unit] if name == f"{head}/rows" else rows)
    priors = {head: tail_prior(blocks, descriptor.heads[head].classes) for head, blocks in sums.items()}
    probe = {name: np.concatenate(blocks) for name, blocks in arrays.items() if sum(map(len, blocks))}
    for head in descriptor.heads:  # merged stores bring a probe each
        limit = unit_statistics.most_probed(descriptor, head)
        selected = unit_statistics.thinned(len(probe.get(f"{head}/rows", ())), limit)
        probe |= {name: array[selected] for name, array in probe.items() if name.rpartition("/")[0] == head}
    fidelity: dict[str, HeadFidelity] = {}
    for head, kind in descriptor.heads.items():
        if kind.kind in DISTRIBUTIONS:
            codebook = read_codebook(storage, descriptor, head)
            prior = priors.get(head) if codebook is None else codebook.priors
            measured = _probe_fidelity(storage, descriptor, committed, head, probe, prior)
            if head in committed.fidelity:
                poorest, unit = committed.poorest[head]
                fidelity[head] = HeadFidelity(
                    probe=measured, units=committed.fidelity[head].value, poorest=poorest, poorest_unit=unit
                )
            elif measured is not None:
                fidelity[head] = HeadFidelity(probe=measured)
    return Aggregate({f"{head}/prior": array for head, array in priors.items()}, probe, fidelity)


def _statistics_of(storage: Storage, descriptor: Descriptor, record: Record) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the extras of a unit by head and name, checked."""
    if record.extras is None:
        return {}
    with read_errors(storage.locate(paths.extras_path(record.unit, record.attempt)), REPAIR):
        extras = UnitReader(storage, descriptor, record).read_extras()
        return unit_statistics.split_extras(extras, descriptor, record.rows)


def _probe_of(
    descriptor: Descriptor, record: Record, head: str, statistics: dict[str, NDArray[Any]], units: int
) -> dict[str, NDArray[Any]]:
    """Return the rows of a unit that are in the probe of a store of so many units; row numbers are of the unit."""
    if unit_statistics.PROBE not in statistics:
        return {}
    local = statistics[unit_statistics.PROBE_NUMBERS]
    nominal = record.unit * descriptor.unit_rows + local
    chosen = unit_statistics.probes(descriptor, head, nominal, units * descriptor.unit_rows)
    chosen |= not descriptor.grows
    probe = {f"{head}/rows": local[chosen], f"{head}/logits": statistics[unit_statistics.PROBE][chosen]}
    if unit_statistics.PROBE_POSITIONS in statistics:
        probe[f"{head}/positions"] = statistics[unit_statistics.PROBE_POSITIONS][chosen]
    return probe


def _probe_fidelity(
    storage: Storage,
    descriptor: Descriptor,
    committed: CommittedUnits,
    head: str,
    probe: dict[str, NDArray[Any]],
    prior: NDArray[np.float32] | None,
) -> Fidelity | None:
    """Return the fidelity of a head on its rows that are stored dense; None without such rows."""
    if f"{head}/rows" not in probe:
        return None
    kind = descriptor.heads[head]
    columns = _columns_of(storage, descriptor, committed, head, probe[f"{head}/rows"])
    lengths = columns.pop(LENGTH, None)
    labels: SoftLabels = descriptor.encoding(head).decode(columns, kind, prior)
    if lengths is not None:
        positions = probe[f"{head}/positions"]
        if (positions >= lengths).any():
            raise StoreCorrupt(f"the extras of {storage} hold positions of {head!r} that its rows lack; {REPAIR}")
        labels = as_rows(labels, lengths, positions)
    return measure(probe[f"{head}/logits"], labels, kind.temperatures)


def _columns_of(
    storage: Storage, descriptor: Descriptor, committed: CommittedUnits, head: str, rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the columns of a head for row numbers, ascending, read from the shards."""
    schema = descriptor.columns()
    names = [name for name in schema if name.startswith(f"{head}/")]
    index = ChunkIndex(committed.columns["rows"], descriptor.chunk_rows)
    chunks, offsets = index.locate(rows)
    blocks = []
    reader: UnitReader | None = None
    for chunk in np.unique(chunks):
        unit, local = index.unit_of(int(chunk))
        if reader is None or reader.record.unit != unit:
            reader = UnitReader(storage, descriptor, committed.record(storage, descriptor, unit))
        blocks.append(ragged.take(reader.read_chunk(local, names), schema, offsets[chunks == chunk]))
    return head_arrays(ragged.join(blocks), head)
