"""A table of encodings: what each would cost over the whole dataset, and how much of the teacher it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from softlabels.planning.sample import Sample

LISTED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEAST = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
ROWS_A_PRIOR = 16
MOST_PRIORS = 64
MANY_CLASSES = 512
"""From here on tails are long enough for a codebook."""
DRAWS = (12, 25, 50, 100)


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One encoding, measured.

    Attributes:
        encoding: canonical specification.
        bytes_per_row: of labels and key, compressed; of tokens: a position, its share of the key included.
        kl: KL(p || p^) in nats at the first temperature; None for unbiased labels, whose KL is infinite.
        top1: share of rows whose likeliest class is kept.
        bytes_total: of the whole dataset.
        mass: listed probability.
        error: sum of (p^ - p)^2; of unbiased labels the noise of their gradient.
        ids: classes listed, mean.
        unbiased: right on average in every context.
        front: no other encoding of its family (exact, unbiased) keeps more in as many bytes.
        current: what the store that was looked at has.
    """

    encoding: str
    bytes_per_row: float
    kl: float | None
    top1: float
    bytes_total: int
    mass: float
    error: float
    ids: float
    unbiased: bool
    front: bool = False
    current: bool = False

    @property
    def distance(self) -> float:
        """What is to be small: the KL, or of unbiased labels the error."""
        return self.error if self.kl is None else self.kl

    def to_json(self) -> dict[str, Any]:
        """As ``plan --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The table.

    Attributes:
        rows: by bytes.
        sampled: rows measured.
        items: rows (positions) of the dataset.
        entropy: of the teacher in nats.
    """

    rows: list[PlanRow]
    sampled: int
    items: int
    entropy: float


def plan(sample: Sample, *, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Measure every family of encodings on ``sample``.

    Args:
        sample: dense logits of some rows.
        progress: told the encodings done and those there are.

    Raises:
        InvalidLogits: a row of the sample is not finite.
    """
    specs = candidates(sample.classes, priors_for(sample))
    if sample.encoding is not None and sample.encoding not in specs:
        specs.append(sample.encoding)
    rows, entropy = [], 0.0
    for done, spec in enumerate(specs, 1):
        row, entropy = measure_row(sample, spec)
        rows.append(row)
        if progress is not None:
            progress(done, len(specs))
    rows.sort(key=lambda row: row.bytes_per_row)
    return Plan(rows=_mark_fronts(rows), sampled=len(sample.logits), items=sample.items, entropy=entropy)


def candidates(classes: int, priors: int = 1) -> list[str]:
    """Specifications worth looking at for so many classes, and for a codebook of so many tail priors."""
    listed = [k for k in LISTED if k < classes]
    specs = ["dense:f16", "dense:q8", *(f"topk:{k}:{kept}" for k in listed for kept in ("f16", "d4"))]
    if classes > 16:
        specs += [f"adaptive:{least:g}:d4" for least in LEAST]
        specs += [f"adaptive:{least:g}:d16" for least in LEAST if least < 0.01]
        specs += [f"adaptive:{least:g}:d4:{priors}" for least in LEAST if priors > 1]
        specs += [f"threshold:{tau:g}" for tau in LEAST]
        specs += [f"sampled:{draws}" for draws in DRAWS]
    return specs


def priors_for(sample: Sample) -> int:
    """Tail priors worth a try: those of the store's own codebook, or as many as the sample can tell apart."""
    if sample.codebook is not None:
        return int(sample.codebook.priors.shape[1])
    return min(MOST_PRIORS, len(sample.logits) // ROWS_A_PRIOR) if sample.classes >= MANY_CLASSES else 1


def measure_row(sample: Sample, spec: str) -> tuple[PlanRow, float]:
    """One row of the table, and the entropy of the teacher."""
    from softlabels import encodings

    encoding = encodings.parse(spec, classes=sample.classes)
    size, ids, fidelity = sample.try_encoding(spec)
    total = sample.total_bytes(size)
    kl = next(iter(fidelity.kl.values()), None)
    row = PlanRow(
        encoding=encoding.spec,
        bytes_per_row=total / sample.items,
        kl=kl,
        top1=fidelity.top1,
        bytes_total=round(total),
        mass=fidelity.mass,
        error=fidelity.error,
        ids=ids,
        unbiased=kl is None,
        current=sample.encoding == encoding.spec,
    )
    return row, fidelity.entropy


def _mark_fronts(rows: list[PlanRow]) -> list[PlanRow]:
    """Rows by bytes, those on the Pareto front of their family marked."""
    best = {False: float("inf"), True: float("inf")}
    marked = []
    for row in rows:
        front = row.distance < best[row.unbiased]
        best[row.unbiased] = min(best[row.unbiased], row.distance)
        marked.append(PlanRow(**(asdict(row) | {"front": front})))
    return marked
