"""What units leave beside their shards so that sealing can say how good the labels are.

Two things per head, in a unit's extras file: the sum of the probability its rows did not list (the raw material of the
tail prior), from about 256 units, and a few rows kept dense (the probe), about 256 in all. Which ones follows from the
seed and the number of the unit or row: any engine and any resume gives the same result. Where the total is not known
yet, a unit or row is kept as if it were the last; sealing then keeps those that the total would have chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.labels import DISTRIBUTIONS, SoftLabels, SparseLabels, log_softmax
from softlabels.store.descriptor import Descriptor

MOST_UNITS = 256
PROBE_ROWS = 256
PROBE_BYTES = 64 * 2**20
GROWING_PROBE_BYTES = 4 * 2**20
"""At most about this much of dense float32 logits a head, and at least 16 rows; a growing store writes some ten times
as much until it is sealed."""

UNIFORM_SHARE = 0.01
"""Of the tail prior, so that no class has probability 0."""

PRIOR, PROBE, PROBE_NUMBERS = "prior", "probe", "probe_rows"
UNIT_STREAM, ROW_STREAM = 0, 1


def gathers(descriptor: Descriptor, units: NDArray[np.int64], total: int | None = None) -> NDArray[np.bool_]:
    """Which of ``units`` sum the probability they do not list.

    Args:
        descriptor: of the store.
        units: numbers of units.
        total: how many there are in all; by default what the descriptor says, or each as if it were the last.
    """
    if total is None and not descriptor.grows:
        total = descriptor.units
    return _chosen(descriptor.seed, UNIT_STREAM, units, MOST_UNITS, units + 1 if total is None else total)


def probes(descriptor: Descriptor, head: str, rows: NDArray[np.int64], total: int | None = None) -> NDArray[np.bool_]:
    """Which of ``rows`` are kept dense.

    Args:
        descriptor: of the store.
        head: name of the head.
        rows: numbers of rows, as if every unit were full.
        total: as for gathers, of rows.
    """
    kind = descriptor.heads[head]
    if kind.ragged:
        return np.zeros(len(rows), bool)
    size = 4 * kind.classes * int(np.prod(kind.position_shape, dtype=np.int64))
    most = min(PROBE_ROWS, max(16, (GROWING_PROBE_BYTES if descriptor.grows else PROBE_BYTES) // size))
    if total is None and descriptor.rows is not None:
        total = descriptor.rows
    return _chosen(descriptor.seed, ROW_STREAM, rows, most, rows + 1 if total is None else total)


class UnitEvidence:
    """What one unit leaves for sealing, gathered as its rows come.

    Args:
        descriptor: of the store.
        unit: its number.
    """

    def __init__(self, descriptor: Descriptor, unit: int) -> None:
        self._descriptor = descriptor
        self._first = unit * descriptor.unit_rows
        self._gathers = bool(gathers(descriptor, np.array([unit]))[0])
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._dense: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float32]]]] = {}

    def wants_sums(self, head: str) -> bool:
        """Whether to give the sum of unlisted probability."""
        return self._gathers and self._descriptor.encoding(head).has_tail

    def wants_dense(self, head: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of ``rows`` of the unit to give dense."""
        return probes(self._descriptor, head, self._first + rows)

    def add_sums(self, head: str, sums: NDArray[np.float64]) -> None:
        """Add (T, C) sums of unlisted probability."""
        self._sums[head] = self._sums[head] + sums if head in self._sums else sums

    def add_dense(self, head: str, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Keep (n, *shape, C) logits of ``rows`` of the unit."""
        self._dense.setdefault(head, []).append((rows, logits))

    def extras(self) -> dict[str, NDArray[Any]]:
        """Arrays to commit with the unit; none where it leaves nothing."""
        found: dict[str, NDArray[Any]] = {
            f"{head}/{PRIOR}": sums.astype(np.float32) for head, sums in self._sums.items()
        }
        for head, parts in self._dense.items():
            rows = np.concatenate([part[0] for part in parts])
            order = np.argsort(rows)
            found[f"{head}/{PROBE}"] = np.concatenate([part[1] for part in parts])[order]
            found[f"{head}/{PROBE_NUMBERS}"] = rows[order]
        return found


def _chosen(
    seed: int, stream: int, numbers: NDArray[np.int64], most: int, total: int | NDArray[np.int64]
) -> NDArray[np.bool_]:
    """A seeded choice of about ``most`` of ``total`` numbers; one chosen of many is also chosen of fewer."""
    start = _mix(np.array([(2 * seed + stream) % 2**64], np.uint64))
    uniform = _mix(start ^ numbers.astype(np.uint64)).astype(np.float64) / 2.0**64
    return np.asarray(uniform * total < most)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def tail_prior(sums: Iterable[NDArray[np.floating[Any]]], classes: int) -> NDArray[np.float32]:
    """The tail prior (len(temperatures), C) from units' sums of unlisted probability, in the order given."""
    total: NDArray[np.float64] | None = None
    for part in sums:
        total = part.astype(np.float64) if total is None else total + part
    if total is None:
        raise ValueError("no unit carries sums for the tail prior")
    mass = total.sum(axis=1, keepdims=True)
    share = np.divide(total, mass, out=np.full_like(total, 1.0 / classes), where=mass > 0)
    prior: NDArray[np.float32] = ((1 - UNIFORM_SHARE) * share + UNIFORM_SHARE / classes).astype(np.float32)
    return prior


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How close labels are to the dense logits they came from, on the probe.

    Attributes:
        rows: rows measured.
        kl: mean KL(p || p^) in nats, by temperature.
        mass: mean listed probability at the first temperature.
        top1: share of rows whose likeliest class is the teacher's.
        entropy: mean entropy of the teacher in nats, at the first temperature.
    """

    rows: int
    kl: dict[str, float]
    mass: float
    top1: float
    entropy: float

    def to_json(self) -> dict[str, Any]:
        """As the snapshot and ``inspect`` hold it."""
        return {"rows": self.rows, "kl": self.kl, "mass": self.mass, "top1": self.top1, "entropy": self.entropy}


def measure_fidelity(
    logits: NDArray[np.float32], labels: SoftLabels, temperatures: tuple[float, ...], kind: str
) -> Fidelity | None:
    """Compare labels with the logits they were made from; None where the head is no distribution.

    Args:
        logits: (n, C) dense.
        labels: of the same rows.
        temperatures: at which to measure the KL.
        kind: of the head.
    """
    if kind not in DISTRIBUTIONS:
        return None
    kl = {}
    for temperature in temperatures:
        log_p = log_softmax(logits, temperature).astype(np.float64)
        p = np.exp(log_p)
        with np.errstate(invalid="ignore"):
            terms = np.where(p > 0, p * (log_p - labels.log_probs(temperature)), 0.0)
        kl[f"{temperature:g}"] = float(max(terms.sum(axis=-1).mean(), 0.0))
    first = temperatures[0]
    log_p = log_softmax(logits, first).astype(np.float64)
    p = np.exp(log_p)
    mass, likeliest = 1.0, labels.log_probs(first).argmax(axis=-1)
    if isinstance(labels, SparseLabels):
        # Quantising may tie the first two log-probabilities; their order still says which is the likelier.
        likeliest = labels.ids[:, 0]
        mass = float(np.exp(labels.listed_log_probs(first).astype(np.float64)).sum(axis=-1).mean())
    return Fidelity(
        rows=len(logits),
        kl=kl,
        mass=mass,
        top1=float((likeliest == logits.argmax(axis=-1)).mean()),
        entropy=float(-np.where(p > 0, p * log_p, 0.0).sum(axis=-1).mean()),
    )


def split_extras(
    extras: Mapping[str, NDArray[Any]], descriptor: Descriptor, rows: int
) -> dict[str, dict[str, NDArray[Any]]]:
    """The extras of a unit of ``rows`` rows, by head and name, checked against the descriptor.

    Raises:
        ValueError: arrays of a head that is not there, or of another shape.
    """
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for full_name, array in extras.items():
        head, _, name = full_name.partition("/")
        if head not in descriptor.heads or name not in {PRIOR, PROBE, PROBE_NUMBERS}:
            raise ValueError(f"an array {full_name!r} that does not belong there")
        kind = descriptor.heads[head]
        count = len(extras.get(f"{head}/{PROBE_NUMBERS}", ()))
        dense = (count, *kind.position_shape, kind.classes)
        shape = {PRIOR: (len(kind.temperatures), kind.classes), PROBE: dense, PROBE_NUMBERS: (count,)}[name]
        if array.shape != shape:
            raise ValueError(f"{full_name!r} has shape {array.shape} where {shape} is expected")
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ValueError(f"{full_name!r} holds NaN")
        if name == PRIOR and not ((array >= 0) & np.isfinite(array)).all():
            raise ValueError(f"{full_name!r} holds no sums of probabilities")
        if name == PROBE_NUMBERS and (array.dtype != np.int64 or (np.diff(array, prepend=-1, append=rows) <= 0).any()):
            raise ValueError(f"{full_name!r} are no ascending rows of the unit")
        found.setdefault(head, {})[name] = array
    return found
