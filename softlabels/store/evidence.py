"""What units leave beside their shards so that sealing can say how good the labels are.

Up to 256 units, a seeded choice, carry two things per head in their extras file: the sum of the probability their rows
did not list (the raw material of the tail prior) and a few rows kept dense (the probe). The choice depends on the
descriptor alone, and sums are added in the order of units: any engine and any resume gives the same result.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.labels import DISTRIBUTIONS, SoftLabels, SparseLabels, log_softmax
from softlabels.store.descriptor import Descriptor

MOST_UNITS = 256
PROBE_ROWS = 256
PROBE_BYTES = 64 * 2**20
"""At most this much of dense float32 logits a head, and at least 16 rows."""

UNIFORM_SHARE = 0.01
"""Of the tail prior, so that no class has probability 0."""

PRIOR, PROBE, PROBE_NUMBERS = "prior", "probe", "probe_rows"


def evidence_units(descriptor: Descriptor) -> list[int]:
    """The units that carry extras, ascending: those with the least BLAKE3 of seed and number."""
    units = range(descriptor.units)
    if len(units) <= MOST_UNITS:
        return list(units)
    seed = descriptor.seed.to_bytes(8, "little", signed=True)
    return sorted(sorted(units, key=lambda unit: blake3(seed + unit.to_bytes(8, "little")).digest())[:MOST_UNITS])


def probe_rows(descriptor: Descriptor, head: str) -> NDArray[np.int64]:
    """Rows of the store kept dense for ``head``, ascending: a seeded sample of the rows of evidence_units."""
    ranges = [descriptor.unit_range(unit) for unit in evidence_units(descriptor)]
    ends = np.cumsum([len(rows) for rows in ranges])
    bound = max(16, PROBE_BYTES // (4 * descriptor.heads[head].classes))
    count = min(PROBE_ROWS, bound, int(ends[-1]))
    chosen = np.sort(random.Random(descriptor.seed).sample(range(int(ends[-1])), count))  # noqa: S311  no secret
    which = np.searchsorted(ends, chosen, side="right")
    starts = np.array([rows.start for rows in ranges]) - np.concatenate([[0], ends[:-1]])
    rows: NDArray[np.int64] = (chosen + starts[which]).astype(np.int64)
    return rows


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


def split_extras(extras: Mapping[str, NDArray[Any]], descriptor: Descriptor) -> dict[str, dict[str, NDArray[Any]]]:
    """A unit's extras by head and name, checked against the descriptor.

    Raises:
        ValueError: arrays of a head that is not there, or of another shape.
    """
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for full_name, array in extras.items():
        head, _, name = full_name.partition("/")
        if head not in descriptor.heads or name not in {PRIOR, PROBE, PROBE_NUMBERS}:
            raise ValueError(f"an array {full_name!r} that does not belong there")
        classes, temperatures = descriptor.heads[head].classes, len(descriptor.heads[head].temperatures)
        rows = len(extras.get(f"{head}/{PROBE_NUMBERS}", ()))
        shape = {PRIOR: (temperatures, classes), PROBE: (rows, classes), PROBE_NUMBERS: (rows,)}[name]
        if array.shape != shape:
            raise ValueError(f"{full_name!r} has shape {array.shape} where {shape} is expected")
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ValueError(f"{full_name!r} holds NaN")
        found.setdefault(head, {})[name] = array
    return found
