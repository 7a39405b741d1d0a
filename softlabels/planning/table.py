"""A table of encodings: the bytes of each over the whole dataset, and how much of the teacher it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from softlabels import encodings
from softlabels.encodings import Counts
from softlabels.planning.sample import Sample

LISTED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
THRESHOLDS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
ROWS_PER_PRIOR = 16
MAX_PRIORS = 64
MANY_CLASSES = 512
"""From this number of classes on, tails are long enough for a codebook."""
DRAWS = (12, 25, 50, 100)
CONFIDENCE = 1.645
"""Standard errors above the mean of a sample that a mean exceeds in 5 % of the cases."""
COUNTS = (5, 8, 12, 20, 30, 50)
"""Draws of ``counts``, from all classes."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One encoding, measured.

    Attributes:
        encoding: Canonical specification.
        bytes_per_row: Bytes of labels, key and container per row, compressed; of tokens per position.
        kl: KL(p || p^) in nats at the first temperature; None for draws, whose KL is infinite.
        top1: Share of rows whose likeliest class is the teacher's.
        bytes_total: Bytes of the whole dataset.
        mass: Probability of the listed classes.
        error: Sum of (p^ - p)^2; of draws the noise of their gradient.
        ids: Mean number of classes listed.
        unbiased: If True, labels are draws, right on average in every context: all classes of ``threshold`` and
            ``sampled``, those above the floor of ``counts``.
        kl_error: Standard error of the KL over the sample, in nats; 0 for draws.
        front: If True, no other encoding of its family (exact, unbiased) keeps more in as many bytes.
        current: If True, it is the encoding of the store that the sample comes from.
        units: Units of the dataset.
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
    kl_error: float = 0.0
    front: bool = False
    current: bool = False
    units: int = 0

    @property
    def distance(self) -> float:
        """The figure to minimise: the KL, or of draws the error."""
        return self.error if self.kl is None else self.kl

    @property
    def kl_bound(self) -> float:
        """KL that all rows of the dataset stay within with 95 % confidence; infinite for unbiased labels."""
        return math.inf if self.kl is None else self.kl + CONFIDENCE * self.kl_error

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``plan --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The table.

    Attributes:
        rows: Encodings by bytes.
        sample: Rows that were measured; ``softlabels.planning.recommend`` chooses an encoding for them.
        entropy: Mean entropy of the teacher in nats.
    """

    rows: list[PlanRow]
    sample: Sample = field(repr=False)
    entropy: float

    @property
    def sampled(self) -> int:
        """Number of rows that were measured."""
        return len(self.sample.logits)

    def to_json(self) -> dict[str, Any]:
        """Return the table as ``plan --json`` prints it."""
        return {"rows": [row.to_json() for row in self.rows], "sampled": self.sampled, "entropy": self.entropy}


def plan(sample: Sample, *, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Return every family of encodings, measured on ``sample``.

    Args:
        sample: Dense logits of some rows.
        progress: Callback that receives the encodings done and their number.

    Raises:
        InvalidLogits: A row of the sample is not finite.
    """
    specs = candidates(sample.classes, priors_for(sample), per_position=bool(sample.shape))
    named = {encodings.parse(spec, classes=sample.classes).spec for spec in specs}
    if sample.encoding is not None and sample.encoding not in named:
        specs.append(sample.encoding)
    rows, entropy = [], 0.0
    for done, spec in enumerate(specs, 1):
        row, entropy = measure_row(sample, spec)
        rows.append(row)
        if progress is not None:
            progress(done, len(specs))
    rows.sort(key=lambda row: row.bytes_per_row)
    return Plan(rows=_mark_fronts(rows), sample=sample, entropy=entropy)


def candidates(classes: int, priors: int = 1, *, per_position: bool = False) -> list[str]:
    """Return the specifications worth measuring.

    Args:
        classes: Number of classes.
        priors: Tail priors of a codebook; 1: none is tried.
        per_position: If True, rows have many distributions, such as those of pixels, of which most are certain.
    """
    listed = [k for k in LISTED if k < classes]
    specs = ["dense:f16", "dense:q8", *(f"topk:{k}:{dtype}" for k in listed for dtype in ("f16", "d4"))]
    if classes > 16 or per_position:
        specs += [f"adaptive:{least:g}:d4" for least in THRESHOLDS]
        specs += [f"adaptive:{least:g}:d16" for least in THRESHOLDS if least < 0.01]
        specs += [f"adaptive:{least:g}:d4:{priors}" for least in THRESHOLDS if priors > 1]
        specs += [f"threshold:{tau:g}" for tau in THRESHOLDS]
        specs += [f"sampled:{draws}" for draws in DRAWS]
        specs += [Counts(draws, priors=priors).spec for draws in COUNTS if priors > 1]
    return specs


def priors_for(sample: Sample) -> int:
    """Return the tail priors worth a try: those of the store's codebook, or as many as the sample can tell apart.

    Args:
        sample: Dense logits of some rows.
    """
    if sample.codebook is not None:
        return int(sample.codebook.priors.shape[1])
    return min(MAX_PRIORS, len(sample.logits) // ROWS_PER_PRIOR) if sample.classes >= MANY_CLASSES else 1


def measure_row(sample: Sample, spec: str) -> tuple[PlanRow, float]:
    """Return one row of the table, and the entropy of the teacher.

    Args:
        sample: Dense logits of some rows.
        spec: Specification of the encoding.

    Raises:
        InvalidArgument: The encoding is invalid for this head.
    """
    tried = sample.try_encoding(spec)
    kl = next(iter(tried.fidelity.kl.values()), None)
    row = PlanRow(
        encoding=tried.encoding,
        bytes_per_row=tried.total_bytes / sample.items,
        kl=kl,
        top1=tried.fidelity.top1,
        bytes_total=round(tried.total_bytes),
        mass=tried.fidelity.mass,
        error=tried.fidelity.error or 0.0,
        ids=tried.ids,
        kl_error=tried.kl_error,
        unbiased=kl is None,
        current=sample.encoding == tried.encoding,
        units=tried.units,
    )
    return row, tried.fidelity.entropy


def _mark_fronts(rows: list[PlanRow]) -> list[PlanRow]:
    """Return rows, sorted by bytes, with those on the Pareto front of their family marked."""
    best = {False: float("inf"), True: float("inf")}
    marked = []
    for row in rows:
        marked.append(replace(row, front=row.distance < best[row.unbiased]))
        best[row.unbiased] = min(best[row.unbiased], row.distance)
    return marked
