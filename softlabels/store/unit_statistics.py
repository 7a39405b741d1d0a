"""Statistics that units store beside their shards, from which sealing measures how good the labels are.

Three things per head: in a unit's extras file sums of the probability its rows did not list (the raw material of the
tail prior), from about 256 units, and a few rows stored dense (the probe), about 256 in all; in its record, the
fidelity of about 32 of its rows. Which ones follows from the seed and the number of the unit or row: any engine and any
resume gives the same result. Where the total is not known yet, a unit or row is stored as if it were the last; sealing
then keeps those that the total would have chosen. Of a ragged row one position is stored or measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.fidelity import Fidelity, combine
from softlabels.rng import MEASURE_STREAM, POSITION_STREAM, ROW_STREAM, UNIT_STREAM, uniforms, words
from softlabels.store.format.descriptor import Descriptor

MAX_PROBED_UNITS = 256
PROBE_ROWS = 256
PROBE_BYTES = 40 * 2**20
GROWING_PROBE_BYTES = 4 * 2**20
"""Of dense float32 logits of all heads together, expected; a growing store writes some ten times as much until it is
sealed. How many rows a seeded choice takes varies: never more than twice as much, or where that is less than a row,
none, so that the file stays below what readers accept."""

MEASURED_ROWS = 32
"""Of each unit."""

PRIOR, PROBE, PROBE_NUMBERS, PROBE_POSITIONS = "prior", "probe", "probe_rows", "probe_positions"


def gathers(descriptor: Descriptor, units: NDArray[np.int64], total: int | None = None) -> NDArray[np.bool_]:
    """Return True for each unit that sums the probability its rows do not list.

    Args:
        descriptor: Descriptor of the store.
        units: Numbers of units, (n,).
        total: Number of units of the store; by default the descriptor's, or as if each unit were the last.
    """
    if total is None and not descriptor.grows:
        total = descriptor.units
    return _chosen(descriptor.seed, UNIT_STREAM, units, MAX_PROBED_UNITS, units + 1 if total is None else total)


def probes(descriptor: Descriptor, head: str, rows: NDArray[np.int64], total: int | None = None) -> NDArray[np.bool_]:
    """Return True for each row that is stored dense.

    Args:
        descriptor: Descriptor of the store.
        head: Name of the head.
        rows: Numbers of rows as if every unit were full, (n,).
        total: Number of rows of the store; default as for gathers.
    """
    if total is None and descriptor.rows is not None:
        total = descriptor.rows
    expected = min(PROBE_ROWS, most_probed(descriptor, head, growing=descriptor.grows) / 2)
    return _chosen(descriptor.seed, ROW_STREAM, rows, expected, rows + 1 if total is None else total)


def most_probed(descriptor: Descriptor, head: str, *, growing: bool = False) -> int:
    """Return the largest number of rows of a head that a unit, and a store, stores dense.

    Args:
        descriptor: Descriptor of the store.
        head: Name of the head.
        growing: If True, twice the number that a growing store expects.
    """
    kind = descriptor.heads[head]
    size = 4 * kind.classes * int(np.prod(kind.position_shape, dtype=np.int64))
    share = 2 * PROBE_BYTES // (len(descriptor.heads) * size)
    return min(share, 2 * max(16, GROWING_PROBE_BYTES // size)) if growing else share


def thinned(count: int, limit: int) -> NDArray[np.int64]:
    """Return the positions of ``limit`` of ``count`` rows, evenly spread; all of them if there are no more."""
    return np.arange(count) if count <= limit else np.linspace(0, count - 1, num=limit).astype(np.int64)


class UnitStatistics:
    """Statistics of one unit, collected as its rows come.

    Args:
        descriptor: Descriptor of the store.
        unit: Number of the unit.
    """

    def __init__(self, descriptor: Descriptor, unit: int) -> None:
        self._descriptor = descriptor
        self._first = unit * descriptor.unit_rows
        self._gathers = bool(gathers(descriptor, np.array([unit]))[0])
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._dense: dict[str, list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]] = {}
        self._measured: dict[str, list[Fidelity]] = {}

    def wants_sums(self, head: str) -> bool:
        """Return True if the unit takes sums of unlisted probability."""
        chosen = self._descriptor.heads[head].codebook is None
        return self._gathers and chosen and self._descriptor.encoding(head).has_tail

    def wants_dense(self, head: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True for each row of the unit that is stored dense."""
        return probes(self._descriptor, head, self._first + rows)

    def wants_measured(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True for each row of the unit that is measured."""
        most = self._descriptor.unit_rows
        return _chosen(self._descriptor.seed, MEASURE_STREAM, self._first + rows, MEASURED_ROWS, most)

    def positions(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position that stands for each ragged row of the unit in the probe and in measurements."""
        of = words(self._descriptor.seed, self._first + rows, stream=POSITION_STREAM)
        return (uniforms(of, np.zeros(1, np.int64)) * lengths).astype(np.int64)

    def add_sums(self, head: str, sums: NDArray[np.float64]) -> None:
        """Add (2, T, C) sums of unlisted probability; see Encoded.residual."""
        self._sums[head] = self._sums[head] + sums if head in self._sums else sums

    def add_dense(
        self,
        head: str,
        rows: NDArray[np.int64],
        logits: NDArray[np.float32],
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        """Keep (n, *shape, C) logits of ``rows`` of the unit; of ragged ones those of a position each."""
        where = np.zeros(len(rows), np.int64) if positions is None else positions
        self._dense.setdefault(head, []).append((rows, where, logits))

    def add_measured(self, head: str, measured: Fidelity) -> None:
        """Add the fidelity of some rows."""
        self._measured.setdefault(head, []).append(measured)

    def fidelity(self) -> dict[str, Fidelity]:
        """Return the fidelity of the measured rows by head."""
        return {head: combine(measured) for head, measured in self._measured.items()}

    def extras(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to commit with the unit; empty if there are none."""
        arrays: dict[str, NDArray[Any]] = {
            f"{head}/{PRIOR}": sums.astype(np.float32) for head, sums in self._sums.items()
        }
        for head, blocks in self._dense.items():
            rows = np.concatenate([block[0] for block in blocks])
            order = np.argsort(rows)[thinned(len(rows), most_probed(self._descriptor, head))]
            arrays[f"{head}/{PROBE}"] = np.concatenate([block[2] for block in blocks])[order]
            arrays[f"{head}/{PROBE_NUMBERS}"] = rows[order]
            if self._descriptor.heads[head].ragged:
                arrays[f"{head}/{PROBE_POSITIONS}"] = np.concatenate([block[1] for block in blocks])[order]
        return arrays


def _chosen(
    seed: int, stream: int, numbers: NDArray[np.int64], count: float, total: int | NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return a seeded choice of about ``count`` of ``total`` numbers; one chosen of many is also chosen of fewer."""
    uniform = uniforms(words(seed, numbers, stream=stream), np.zeros(1, np.int64))
    return np.asarray(uniform * total < count)


def split_extras(
    extras: Mapping[str, NDArray[Any]], descriptor: Descriptor, rows: int
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the extras of a unit by head and name, checked against the descriptor.

    Args:
        extras: Arrays by full name.
        descriptor: Descriptor of the store.
        rows: Rows of the unit.

    Raises:
        ValueError: An array is of no head of the store, or of another shape.
    """
    by_head: dict[str, dict[str, NDArray[Any]]] = {}
    for full_name, array in extras.items():
        head, _, name = full_name.partition("/")
        if head not in descriptor.heads or name not in {PRIOR, PROBE, PROBE_NUMBERS, PROBE_POSITIONS}:
            raise ValueError(f"an array {full_name!r} that does not belong there")
        kind = descriptor.heads[head]
        count = len(extras.get(f"{head}/{PROBE_NUMBERS}", ()))
        dense = (count, *kind.position_shape, kind.classes)
        sums = (2, len(kind.temperatures), kind.classes)
        shape = {PRIOR: sums, PROBE: dense, PROBE_NUMBERS: (count,), PROBE_POSITIONS: (count,)}[name]
        if array.shape != shape:
            raise ValueError(f"{full_name!r} has shape {array.shape} where {shape} is expected")
        _check_values(array, full_name, name, rows)
        by_head.setdefault(head, {})[name] = array
    for head, arrays in by_head.items():
        if PROBE in arrays and (PROBE_POSITIONS in arrays) != descriptor.heads[head].ragged:
            raise ValueError(f"the dense rows of {head!r} have positions, or lack them")
    return by_head


def _check_values(array: NDArray[Any], full_name: str, name: str, rows: int) -> None:
    """Raise ValueError for values of an array of extras that no writer stores."""
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(f"{full_name!r} holds NaN")
    if name == PROBE and not np.isfinite(array.max(axis=-1)).all():
        raise ValueError(f"{full_name!r} holds rows without a finite greatest value")
    if name == PRIOR and not ((array >= 0) & np.isfinite(array)).all():
        raise ValueError(f"{full_name!r} holds no sums of probabilities")
    if name == PROBE_NUMBERS and (array.dtype != np.int64 or (np.diff(array, prepend=-1, append=rows) <= 0).any()):
        raise ValueError(f"{full_name!r} are no ascending rows of the unit")
    if name == PROBE_POSITIONS and (array.dtype != np.int64 or (array < 0).any()):
        raise ValueError(f"{full_name!r} are no positions")
