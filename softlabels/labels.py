"""What a batch of soft labels is, in NumPy: the decoded form that every encoding, loss and reader speaks.

Two kinds cover everything. ``DenseLabels`` holds each value the teacher gave. ``SparseLabels`` holds a few classes a
row with their log-probabilities, and what is known of the rest: the log of its mass at each captured temperature and
the dataset's residual distribution, the tail prior (docs/fidelity.md). Unbiased samples are sparse labels without
a rest: their weights have the full distribution as expectation.

Both are frozen, hold plain arrays, and need neither torch nor a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import ranges
from softlabels.errors import InvalidArgument, TemperatureNotStored

HeadKind = Literal["classes", "tokens", "pixels", "regression", "embedding"]
TailModel = Literal["calibrated", "uniform", "bucket", "renormalize"]

DISTRIBUTIONS: tuple[HeadKind, ...] = ("classes", "tokens", "pixels")
"""Kinds of head whose values are logits; the others are numbers to regress on."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """One named output of the teacher, and how it is stored.

    Attributes:
        encoding: canonical encoding specification, e.g. ``topk:32:f16`` (see softlabels.encodings).
        classes: number of classes C, or the width of a regression or embedding vector.
        kind: what the values mean.
        shape: positions before the class axis: () for one distribution a row, (L,) for L tokens, (H, W) for pixels,
            (None,) for tokens whose number differs from row to row (ragged rows).
        temperatures: at which tail masses were captured; the first is the one samples are drawn at.
        tail: the default model of the unlisted mass.
        codebook: BLAKE3 of the store's file of tail priors to choose from; None: there is none.
    """

    encoding: str
    classes: int
    kind: HeadKind = "classes"
    shape: tuple[int | None, ...] = ()
    temperatures: tuple[float, ...] = (1.0,)
    tail: TailModel = "calibrated"
    codebook: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise InvalidArgument(f"unknown head kind {self.kind!r}: use one of {', '.join(get_args(HeadKind))}")
        if self.tail not in get_args(TailModel):
            raise InvalidArgument(f"unknown tail model {self.tail!r}: use one of {', '.join(get_args(TailModel))}")
        if not 1 <= self.classes < 2**31:
            raise InvalidArgument(f"a head needs between 1 and 2^31 - 1 classes, not {self.classes}")
        if self.shape != (None,) and not all(isinstance(side, int) and 0 < side < 2**20 for side in self.shape):
            raise InvalidArgument(f"a head's shape is numbers above 0, or (None,) for ragged rows, not {self.shape}")
        if not self.temperatures or not all(0 < t < float("inf") for t in self.temperatures):
            raise InvalidArgument(f"temperatures must be positive and finite, not {self.temperatures}")

    @property
    def ragged(self) -> bool:
        """Whether the number of positions differs from row to row."""
        return self.shape == (None,)

    @property
    def position_shape(self) -> tuple[int, ...]:
        """Positions of one encoded item: those of a row; of ragged rows each position is an item."""
        return tuple(side for side in self.shape if side is not None)

    def to_json(self) -> dict[str, object]:
        """This head as the store's descriptor keeps it."""
        told: dict[str, object] = {
            "kind": self.kind,
            "classes": self.classes,
            "shape": list(self.shape),
            "encoding": self.encoding,
            "temperatures": list(self.temperatures),
            "tail": self.tail,
        }
        return told if self.codebook is None else told | {"codebook": self.codebook}


@dataclass(frozen=True)
class DenseLabels:
    """Every value the teacher gave.

    Attributes:
        values: (B, *shape, C) float32: logits where ``kind`` is a distribution, otherwise the numbers themselves; of
            ragged rows (N, C), the positions of all rows one after the other.
        kind: what the values mean.
        lengths: (B,) positions of each row, N in all; None unless rows are ragged.
    """

    values: NDArray[np.float32]
    kind: HeadKind = "classes"
    lengths: NDArray[np.integer] | None = None

    def __len__(self) -> int:
        return len(self.values if self.lengths is None else self.lengths)

    @property
    def classes(self) -> int:
        """Width of the last axis."""
        return int(self.values.shape[-1])

    def log_probs(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Log-probabilities at ``temperature``, (B, *shape, C) float32; reduced in float64."""
        return log_softmax(self.values, temperature)

    def take(self, rows: NDArray[np.integer]) -> DenseLabels:
        """The labels of ``rows``, in that order."""
        positions, lengths = _positions(self.lengths, rows)
        return replace(self, values=self.values[positions], lengths=lengths)


@dataclass(frozen=True)
class SparseLabels:
    """A few classes a row, and what is known of the rest.

    Attributes:
        classes: C, the number of classes there are.
        ids: (B, K), or (N, K) for the positions of all rows where rows are ragged;
            integer class ids; a row with fewer than K is padded by entries whose value is -inf (their id is 0).
        values: (B, K) float32 natural log-probabilities at T = 1, descending, up to a constant a row: what the tail
            leaves is theirs; for ``unbiased`` labels the log-weights whose exponentials have p_T as expectation, at
            T = temperatures[0].
        temperatures: at which ``log_tail`` is known.
        log_tail: (B, len(temperatures)) float32, log of the mass outside the listed classes; -inf where none is.
        tail: the model of that mass.
        prior: (len(temperatures), C) float32, the tail prior; each row sums to 1 and is nowhere 0. None: uniform. With
            ``which``, (len(temperatures), M, C), priors to choose from.
        unbiased: the labels are a sample (no tail).
        lengths: (B,) positions of each row, N in all; None unless rows are ragged.
        which: (B,) the tail prior each row has; None: there is one for all.
    """

    classes: int
    ids: NDArray[np.integer]
    values: NDArray[np.float32]
    temperatures: tuple[float, ...]
    log_tail: NDArray[np.float32]
    tail: TailModel = "calibrated"
    prior: NDArray[np.float32] | None = field(default=None, repr=False)
    unbiased: bool = False
    lengths: NDArray[np.integer] | None = None
    which: NDArray[np.integer] | None = None

    def __len__(self) -> int:
        return len(self.ids if self.lengths is None else self.lengths)

    def temperature_index(self, temperature: float) -> int:
        """Position of ``temperature`` among the captured ones.

        Raises:
            TemperatureNotStored: it was not captured.
        """
        for index, stored in enumerate(self.temperatures):
            if stored == temperature:
                return index
        listed = ", ".join(f"{t:g}" for t in self.temperatures)
        raise TemperatureNotStored(
            f"these labels hold no tail mass at temperature {temperature:g}; they hold {listed}. "
            f"Use one of those, or generate again with --temperature {temperature:g}"
        )

    def listed_log_probs(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Exact log-probabilities of the listed classes at ``temperature``, (B, K) float32; padding stays -inf.

        log p_T(i) = l_i/T - logsumexp_S(l/T) + log(1 - exp(r_T))   (docs/fidelity.md, eq. 2). At T = 1 the stored
        values are already that, but are normalised anyway so that listed and tail mass sum to one after quantising.
        """
        index = self.temperature_index(temperature)
        if self.unbiased:
            return self.values
        values = self.values.astype(np.float64) / temperature
        listed = values - _logsumexp(values)[:, None]
        return (listed + log1mexp(self.log_tail[:, index].astype(np.float64))[:, None]).astype(np.float32)

    def log_probs(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """The reconstructed distribution p^ over all classes, (B, C) float32.

        For looking at and testing; losses never build it. With ``tail="bucket"`` unlisted classes are -inf, and the
        row sums to the listed mass; with ``renormalize`` the listed classes sum to one.
        """
        index = self.temperature_index(temperature)
        listed = self.listed_log_probs(temperature).astype(np.float64)
        rows = np.arange(len(self.ids))[:, None]
        valid = np.isfinite(self.values)
        if self.unbiased or self.tail == "bucket":
            out = np.full((len(self.ids), self.classes), -np.inf)
        elif self.tail == "renormalize":
            listed = listed - _logsumexp(listed)[:, None]
            out = np.full((len(self.ids), self.classes), -np.inf)
        else:
            prior = self.tail_prior(index)
            listed_prior = np.where(valid, np.take_along_axis(prior, self.ids, axis=1), 0.0).sum(axis=1)
            rest = np.maximum(1.0 - listed_prior, np.finfo(np.float64).tiny)
            with np.errstate(divide="ignore"):
                out = np.log(prior) + (self.log_tail[:, index] - np.log(rest))[:, None]
        row_of, column = np.nonzero(valid)
        out[rows[row_of, 0], self.ids[row_of, column]] = listed[row_of, column]
        return out.astype(np.float32)

    def tail_prior(self, index: int) -> NDArray[np.float64]:
        """The distribution that unlisted mass follows at temperatures[index], (B, C) float64."""
        shape = (len(self.ids), self.classes)
        if self.tail == "uniform" or self.prior is None:
            return np.broadcast_to(1.0 / self.classes, shape)
        prior = self.prior[index].astype(np.float64)
        return np.broadcast_to(prior, shape) if self.which is None else prior[self.which]

    def take(self, rows: NDArray[np.integer]) -> SparseLabels:
        """The labels of ``rows``, in that order."""
        at, lengths = _positions(self.lengths, rows)
        which = None if self.which is None else self.which[at]
        return replace(
            self, ids=self.ids[at], values=self.values[at], log_tail=self.log_tail[at], lengths=lengths, which=which
        )


SoftLabels = DenseLabels | SparseLabels
"""A batch of soft labels of one head."""

Targets = Mapping[str, SoftLabels]
"""A batch of soft labels, by head."""


def _positions(
    lengths: NDArray[np.integer] | None, rows: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer] | None]:
    """Positions that belong to ``rows``, and the lengths of those rows; the rows themselves unless they are ragged."""
    if lengths is None:
        return rows, None
    counts = lengths.astype(np.int64)
    return ranges((np.cumsum(counts) - counts)[rows], counts[rows]), lengths[rows]


def log1mexp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012); log(0) = -inf at x = 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(x > -0.6931471805599453, np.log(-np.expm1(x)), np.log1p(-np.exp(x))))


def log_softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float32]:
    """Log-softmax of logits/temperature over the last axis, reduced in float64, as float32."""
    scaled = logits.astype(np.float64) / temperature
    with np.errstate(over="ignore"):  # what is below the least float32 has no probability
        return (scaled - _logsumexp(scaled)[..., None]).astype(np.float32)


def _logsumexp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the sum of exponentials over the last axis; -inf where every entry is."""
    top = x.max(axis=-1)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(shift + np.log(np.exp(x - shift[..., None]).sum(axis=-1)))
