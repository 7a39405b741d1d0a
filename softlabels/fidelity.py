"""Closeness of labels to the dense logits they came from: figures that every store carries.

They are measured twice. Unit by unit on a few rows while their logits are at hand, which shows the place of a fault in
a store; and at sealing on the probe, the rows stored dense, with the tail prior that readers will use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.labels import DISTRIBUTIONS, DenseLabels, SoftLabels, SparseLabels, log_softmax

BLOCK = 2**22
"""Probabilities compared together."""

MEANS = ("mass", "top1", "entropy", "error")
"""Figures that are one number."""

MAX_ROWS = 2**48
MAX_FIGURE = 1e100
"""Bounds of the figures of a document, so that sums of them are numbers."""

POOR_MASS = 0.9
"""Listed mass below which a fifth of POOR_KL is enough for a warning."""
POOR_KL = 0.1
"""KL in nats above which labels get a warning."""
NEGLIGIBLE = 1e-20
"""Probability below which a class adds nothing to the KL; 8-bit encodings store such a class as ruled out."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Closeness of labels to the teacher's distribution, on average over some rows.

    Attributes:
        rows: Number of rows (of ragged ones, positions) measured.
        kl: KL(p || p^) in nats by temperature, ``{"1": 0.02}``; empty for draws, whose KL may be infinite.
        mass: Probability that the teacher gives the listed classes, at the first temperature.
        top1: Share of rows whose likeliest class is the teacher's.
        entropy: Entropy of the teacher in nats, at the first temperature.
        error: Squared distance of the distributions, sum of (p^ - p)^2, at the first temperature; the variance of the
            gradient of unbiased labels. None in snapshots made before it was measured.
    """

    rows: int
    kl: dict[str, float]
    mass: float
    top1: float
    entropy: float
    error: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the object that records, snapshots and ``inspect`` hold, with figures that JSON has."""
        figures = {name: _finite(getattr(self, name)) for name in MEANS if getattr(self, name) is not None}
        return {"rows": self.rows, "kl": {name: _finite(figure) for name, figure in self.kl.items()}} | figures

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the fidelity of a record, which is untrusted.

        Raises:
            ValueError: The value is not of the form that ``to_json`` returns.
        """
        try:
            kl = {str(name): _number(figure) for name, figure in dict(value["kl"]).items()}
            rows = value["rows"]
            if type(rows) is not int or not 1 <= rows <= MAX_ROWS:
                raise ValueError(f"{rows!r} rows")
            return cls(
                rows=rows, kl=kl, **{name: _number(value[name]) for name in ("mass", "top1", "entropy", "error")}
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__} {error} where a fidelity is expected") from None

    @property
    def warning(self) -> str | None:
        """Message on labels this poor, with what to do; None for good ones."""
        worst = max(self.kl.values(), default=0.0)
        # A tail that is large and well described is no fault: a flat distribution leaves one.
        if worst <= POOR_KL / 5 or (self.mass >= POOR_MASS and worst <= POOR_KL):
            return None
        return (
            f"these labels list {self.mass:.1%} of the probability and are {worst:.2g} nats from the teacher: list "
            "more (a larger k, or a smaller P of adaptive:P), or use threshold:TAU, which is right on average; "
            "softlabels plan shows what each would cost"
        )


def measure(logits: NDArray[np.float32], labels: SoftLabels, temperatures: Sequence[float]) -> Fidelity:
    """Compare labels with the logits they were made from.

    Example:
        >>> import numpy as np
        >>> from softlabels.fidelity import measure
        >>> from softlabels.labels import DenseLabels
        >>> logits = np.array([[1.0, 0.0, 3.0]], np.float32)
        >>> measure(logits, DenseLabels(logits), [1.0]).kl
        {'1': 0.0}

    Args:
        logits: (n, *shape, C) dense logits, n above 0.
        labels: Labels of the same rows, not ragged. Labels that leave classes without probability are measured with a
            calibrated tail, since their KL would be infinite.
        temperatures: Temperatures at which to measure the KL; other figures are at the first.
    """
    return measure_groups(logits, labels, temperatures, [len(logits)])[0]


def measure_groups(
    logits: NDArray[np.float32], labels: SoftLabels, temperatures: Sequence[float], sizes: Sequence[int]
) -> list[Fidelity]:
    """Compare labels with the logits they were made from, for groups of successive rows; see `measure`.

    Example:
        >>> import numpy as np
        >>> from softlabels.fidelity import measure_groups
        >>> from softlabels.labels import DenseLabels
        >>> logits = np.zeros((3, 2), np.float32)
        >>> [figures.rows for figures in measure_groups(logits, DenseLabels(logits), [1.0], [2, 1])]
        [2, 1]

    Args:
        logits: (n, *shape, C) dense logits.
        labels: Labels of the same rows, not ragged.
        temperatures: Temperatures at which to measure the KL; other figures are at the first.
        sizes: Rows of each group, each above 0; their sum is n.
    """
    classes = logits.shape[-1]
    if isinstance(labels, SparseLabels):
        labels = replace(labels, tail="uniform" if labels.tail == "uniform" else "calibrated", shape=())
    else:
        labels = replace(labels, values=labels.values.reshape(-1, classes))
    flat = logits.reshape(-1, classes)
    step = max(1, BLOCK // classes)
    blocks = []
    for start in range(0, len(flat), step):
        rows = np.arange(start, min(start + step, len(flat)))
        blocks.append(_measure(flat[rows], labels.take(rows), temperatures))
    positions = np.asarray(sizes) * (len(flat) // len(logits))
    starts = np.cumsum(positions) - positions
    means = {name: np.add.reduceat(np.concatenate([block[name] for block in blocks]), starts) / positions
             for name in blocks[0]}  # fmt: skip
    return [
        Fidelity(
            rows=int(rows),
            kl={f"{name:g}": float(max(mean[group], 0.0)) for name, mean in means.items() if not isinstance(name, str)},
            **{name: float(means[name][group]) for name in MEANS},
        )
        for group, rows in enumerate(positions)
    ]


class FidelityMean:
    """The mean over the rows of measurements that come one by one."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums = dict.fromkeys(MEANS, 0.0)
        self._kl: dict[str, float] = {}

    def add(self, figure: Fidelity) -> None:
        """Add a measurement; the temperatures are those of the first one.

        Args:
            figure: The measurement.
        """
        if not self._rows:
            self._kl = dict.fromkeys(figure.kl, 0.0)
        self._rows += figure.rows
        for name in MEANS:
            self._sums[name] += getattr(figure, name) * figure.rows
        for name in self._kl:
            self._kl[name] += figure.kl.get(name, 0.0) * figure.rows

    @property
    def value(self) -> Fidelity:
        """Mean of the figures; there must be a measurement."""
        means = {name: value / self._rows for name, value in self._sums.items()}
        return Fidelity(rows=self._rows, kl={name: kl / self._rows for name, kl in self._kl.items()}, **means)


def combine(figures: Sequence[Fidelity]) -> Fidelity:
    """Return the mean over the rows of several measurements."""
    mean = FidelityMean()
    for figure in figures:
        mean.add(figure)
    return mean.value


def _measure(
    logits: NDArray[np.float32], labels: SoftLabels, temperatures: Sequence[float]
) -> dict[str | float, NDArray[np.float64]]:
    """Return the figures of each row, (n,): those of MEANS by name, and the KL by temperature but for draws."""
    is_sample = isinstance(labels, SparseLabels) and labels.is_sample
    compared = _compare(logits, labels, temperatures[0])
    log_p, p, log_q = compared
    figures: dict[str | float, NDArray[np.float64]] = {}
    if not is_sample:
        others = (_compare(logits, labels, temperature) for temperature in temperatures[1:])
        for temperature, distributions in zip(temperatures, (compared, *others), strict=True):
            figures[temperature] = _divergence(*distributions)
    reconstructed = np.exp(log_q)
    mass, likeliest = np.ones(len(logits)), reconstructed.argmax(axis=-1)
    if isinstance(labels, SparseLabels):
        listed = np.isfinite(labels.values)
        mass = np.where(listed, np.take_along_axis(p, labels.ids, axis=1), 0.0).sum(axis=1)
        # Quantising may tie the first two log-probabilities; their order still says which is the likelier.
        first = labels.values.argmax(axis=1)[:, None] if is_sample else np.zeros((len(labels.ids), 1), np.int64)
        # A row without draws predicts no class.
        likeliest = np.where(listed.any(axis=1), np.take_along_axis(labels.ids, first, axis=1)[:, 0], -1)
    return figures | {
        "mass": mass,
        "top1": (likeliest == logits.argmax(axis=-1)).astype(np.float64),
        "entropy": -(p * np.where(p > 0, log_p, 0.0)).sum(axis=-1),
        "error": ((reconstructed - p) ** 2).sum(axis=-1),
    }


def _compare(
    logits: NDArray[np.float32], labels: SoftLabels, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return log-probabilities and probabilities of the teacher, and log-probabilities of the labels."""
    log_p = log_softmax(logits, temperature).astype(np.float64)
    return log_p, np.exp(log_p), labels.log_probs(temperature).astype(np.float64)


def _divergence(log_p: NDArray[np.float64], p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the KL from the teacher to the labels of each row, (n,)."""
    with np.errstate(invalid="ignore"):
        terms = np.where(p > NEGLIGIBLE, p * (log_p - log_q), 0.0)
    return np.asarray(terms.sum(axis=-1))


def as_rows(labels: SoftLabels, lengths: NDArray[np.integer[Any]], positions: NDArray[np.int64]) -> SoftLabels:
    """Return the labels of one position of each ragged row.

    Args:
        labels: Labels of the positions of n rows, one after the other.
        lengths: (n,) number of positions of each row.
        positions: (n,) a position within each row.
    """
    return labels.take(np.cumsum(lengths, dtype=np.int64) - lengths + positions)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.60} where a number is expected")  # noqa: TRY004  of untrusted content, not of a type
    if not abs(value) <= MAX_FIGURE:
        raise ValueError(f"a number above {MAX_FIGURE:g} where a figure is expected")
    return float(value)


def _finite(figure: float) -> float:
    """Return a figure within the bounds of a document. NaN stays: a record of it is refused."""
    return MAX_FIGURE if abs(figure) > MAX_FIGURE else figure


def distance(labels: SoftLabels, others: SoftLabels) -> NDArray[np.float64]:
    """Return the distance between labels of the same rows, (B,) float64: 0 for equal ones.

    For distributions it is the total variation between the probabilities they list, at the first temperature, from 0 to
    1. For numbers to regress on it is the largest difference relative to the row's largest value. A ragged row has the
    distance of its worst position. Labels of another kind or number are infinitely far.
    """
    if isinstance(labels, SparseLabels) and isinstance(others, SparseLabels):
        apart = _listed_variation(labels, others)
    elif (
        isinstance(labels, DenseLabels)
        and isinstance(others, DenseLabels)
        and labels.values.shape == others.values.shape
    ):
        apart = _dense_distance(labels, others)
    else:
        return np.full(len(labels), np.inf)
    if labels.lengths is None or others.lengths is None:
        return np.asarray(apart.reshape(len(labels), -1).max(axis=1, initial=0.0))
    worst = np.where(labels.lengths == others.lengths, 0.0, np.inf)
    np.maximum.at(worst, np.repeat(np.arange(len(worst)), labels.lengths.astype(np.int64)), apart)
    return worst


def _listed_variation(labels: SparseLabels, others: SparseLabels) -> NDArray[np.float64]:
    if len(labels.ids) != len(others.ids):
        return np.full(len(labels.ids), np.inf)
    signed = [sign * np.exp(side.listed_log_probs(side.temperatures[0]).astype(np.float64))
              for sign, side in ((1, labels), (-1, others))]  # fmt: skip
    # Padding has the id of a class, and would come between the two probabilities of that one.
    listed = [np.where(np.isfinite(side.values), side.ids, -1) for side in (labels, others)]
    ids, p = np.concatenate(listed, axis=1), np.concatenate(signed, axis=1)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, p = np.take_along_axis(ids, order, axis=1), np.take_along_axis(p, order, axis=1)
    # Neighbours with one id are the two probabilities of one class, of opposite sign; padding is 0 and adds nothing.
    both = np.where(ids[:, 1:] == ids[:, :-1], np.abs(p[:, 1:]) + np.abs(p[:, :-1]) - np.abs(p[:, 1:] + p[:, :-1]), 0)
    return np.asarray((np.abs(p).sum(axis=1) - both.sum(axis=1)) / 2)


def _dense_distance(labels: DenseLabels, others: DenseLabels) -> NDArray[np.float64]:
    if labels.kind in DISTRIBUTIONS:
        a, b = (np.exp(side.log_probs().astype(np.float64)) for side in (labels, others))
        apart = np.abs(a - b).sum(axis=-1) / 2
    else:
        scale = np.maximum(np.abs(labels.values).max(axis=-1), np.finfo(np.float32).tiny).astype(np.float64)
        apart = np.abs(labels.values.astype(np.float64) - others.values).max(axis=-1) / scale
    return np.asarray(apart.reshape(len(apart), -1).max(axis=1, initial=0.0))
