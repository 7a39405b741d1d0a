"""Decoded soft labels of a batch, in NumPy: the common form of encodings, losses and readers.

There are two kinds. ``DenseLabels`` holds every value of the teacher's output. ``SparseLabels`` holds a few classes per
row with their log-probabilities, and a model of the rest: the log of its mass at each captured temperature, and the
tail prior that it is taken to follow (docs/fidelity.md). Unbiased samples are sparse labels without a rest, whose
weights have the full distribution as expectation.

Both are frozen, hold plain arrays, and need neither torch nor a store. A loader with a device hands them out with torch
tensors in place of the arrays; the losses take both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import ranges
from softlabels.errors import InvalidArgument, TemperatureNotStored

HeadKind = Literal["classes", "tokens", "pixels", "regression", "embedding"]
TailModel = Literal["calibrated", "uniform", "bucket", "renormalize"]

DISTRIBUTIONS: tuple[HeadKind, ...] = ("classes", "tokens", "pixels")
"""Kinds of head whose values are logits; the values of the others are numbers to regress on."""

TEMPERATURE_TOLERANCE = 1e-6
"""Largest relative difference of two temperatures that are one: 7 * 0.1 is 0.7, and so is its float32."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 1000.0
"""Bounds of a temperature, within which logits divided by it stay finite in float32."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """One named output of the teacher, and its storage.

    Example:
        >>> from softlabels.labels import Head
        >>> Head(classes=1000, encoding="topk:32").temperatures
        (1.0,)

    Attributes:
        encoding: Encoding specification, e.g. ``topk:32:f16`` (see softlabels.encodings).
        classes: Number of classes C, or the width of a regression or embedding vector.
        kind: Meaning of the values.
        shape: Positions before the class axis: () for one distribution per row, (L,) for L tokens, (H, W) for pixels,
            (None,) for ragged rows, whose number of tokens differs.
        temperatures: Temperatures at which tail masses are captured. Samples are drawn at the first.
        tail: Default model of the unlisted mass.
        codebook: BLAKE3 of the store's file of tail priors to choose from; None without one.
        downsample: Height and width in pixels of the square of the teacher's output that a position stands for. Its
            label is their mean distribution (see softlabels.losses.pool).

    Raises:
        InvalidArgument: A field outside its range.
    """

    encoding: str
    classes: int
    kind: HeadKind = "classes"
    shape: tuple[int | None, ...] = ()
    temperatures: tuple[float, ...] = (1.0,)
    tail: TailModel = "calibrated"
    codebook: str | None = None
    downsample: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise InvalidArgument(f"head: unknown kind {self.kind!r}; expected one of {', '.join(get_args(HeadKind))}")
        if self.tail not in get_args(TailModel):
            raise InvalidArgument(
                f"head: unknown tail model {self.tail!r}; expected one of {', '.join(get_args(TailModel))}"
            )
        if not 1 <= self.classes < 2**31:
            raise InvalidArgument(f"head: got {self.classes} classes; expected 1 to 2^31 - 1")
        if self.shape != (None,) and not all(isinstance(side, int) and 0 < side < 2**20 for side in self.shape):
            raise InvalidArgument(f"head: got shape {self.shape}; expected numbers above 0, or (None,) for ragged rows")
        if not self.temperatures or not all(MIN_TEMPERATURE <= t <= MAX_TEMPERATURE for t in self.temperatures):
            raise InvalidArgument(
                f"head: got temperatures {self.temperatures}; expected numbers from {MIN_TEMPERATURE:g} to "
                f"{MAX_TEMPERATURE:g}"
            )
        if not 1 <= self.downsample < 2**20 or (self.downsample > 1 and len(self.position_shape) != 2):
            raise InvalidArgument(
                f"head: got downsample {self.downsample} for shape {self.shape}; expected 1, or for a shape of height "
                "and width a whole number from 1 to 2^20"
            )

    @property
    def ragged(self) -> bool:
        """True if the number of positions differs from row to row."""
        return self.shape == (None,)

    @property
    def position_shape(self) -> tuple[int, ...]:
        """Positions of one encoded item: those of a row, or () where each position of a ragged row is an item."""
        return tuple(side for side in self.shape if side is not None)

    @property
    def item(self) -> Head:
        """Head of one position, with one distribution per row."""
        return replace(self, shape=(), downsample=1)

    def to_json(self) -> dict[str, object]:
        """Return this head as an object of the store's descriptor."""
        fields: dict[str, object] = {
            "kind": self.kind,
            "classes": self.classes,
            "shape": list(self.shape),
            "encoding": self.encoding,
            "temperatures": list(self.temperatures),
            "tail": self.tail,
        }
        fields |= {} if self.codebook is None else {"codebook": self.codebook}
        return fields if self.downsample == 1 else fields | {"downsample": self.downsample}


def canonical_temperatures(temperatures: Iterable[float], existing: Iterable[float] = ()) -> tuple[float, ...]:
    """Return temperatures as a store names them: distinct, in their order, rounded to nine digits.

    Example:
        >>> from softlabels.labels import canonical_temperatures
        >>> canonical_temperatures([2, 0.7, 7 * 0.1])
        (2.0, 0.7)

    Args:
        temperatures: Temperatures, positive and finite.
        existing: Temperatures of the store that is there already, whose exact values take precedence.
    """
    known = tuple(existing)
    names: list[float] = []
    for temperature in temperatures:
        if not any(same_temperature(name, temperature) for name in names):
            names.append(next((t for t in known if same_temperature(t, temperature)), float(f"{temperature:.9g}")))
    return tuple(names)


def same_temperature(one: float, other: float) -> bool:
    """Return True if two temperatures differ by rounding alone."""
    return math.isclose(one, other, rel_tol=TEMPERATURE_TOLERANCE)


@dataclass(frozen=True)
class DenseLabels:
    """Labels that hold every value of the teacher's output.

    Example:
        >>> import numpy as np
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.zeros((1, 4), np.float32))
        >>> np.exp(labels.log_probs(temperature=2.0)).tolist()
        [[0.25, 0.25, 0.25, 0.25]]

    Attributes:
        values: (B, *shape, C) float32: logits if ``kind`` is a distribution, otherwise the numbers themselves. Of
            ragged rows (N, C), the positions of all rows one after the other.
        kind: Meaning of the values.
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
        """Return log-probabilities at ``temperature``, (B, *shape, C) float32, reduced in float64."""
        return log_softmax(self.values, temperature)

    def take(self, rows: NDArray[np.integer]) -> DenseLabels:
        """Return the labels of ``rows``, in that order."""
        positions, lengths = _positions(self.lengths, rows)
        return replace(self, values=self.values[positions], lengths=lengths)


@dataclass(frozen=True)
class Dither:
    """Offsets by which probabilities were rounded to steps: that of class v to step * floor(p_v / step + u_v).

    Attributes:
        step: Least probability that is told from 0.
        offsets: (B,) int64, 0 to 2^32 - 1, from which u_v of each class follows (softlabels.encodings.dither).
    """

    step: float
    offsets: NDArray[np.int64]

    def take(self, rows: NDArray[np.integer]) -> Dither:
        """Return the offsets of ``rows``, in that order."""
        return Dither(self.step, self.offsets[rows])


@dataclass(frozen=True)
class SparseLabels:
    """Labels that hold a few classes per row, and a model of the rest.

    Example:
        >>> import numpy as np
        >>> from softlabels.labels import SparseLabels
        >>> values, log_tail = np.log([[0.5]]).astype(np.float32), np.log([[0.5]]).astype(np.float32)
        >>> labels = SparseLabels(3, np.array([[2]]), values, (1.0,), log_tail)
        >>> np.exp(labels.log_probs()).round(2).tolist()
        [[0.25, 0.25, 0.5]]

    Attributes:
        classes: Number of classes C.
        ids: (B, K) integer class ids, or (N, K) for the positions of all rows if rows are ragged. A row with fewer than
            K is padded by entries with id 0 and value -inf.
        values: (B, K) float32 natural log-probabilities at T = 1, descending unless drawn, up to a constant per row:
            the listed classes share the mass that the tail leaves. Of ``unbiased`` labels the log-weights whose
            exponentials have p_T as expectation, at T = temperatures[0].
        temperatures: Temperatures at which ``log_tail`` is known.
        log_tail: (B, len(temperatures)) float32, log of the mass outside the listed classes; -inf where there is none.
        tail: Model of that mass.
        prior: (len(temperatures), C) float32, the tail prior; each row sums to 1 and is above 0 everywhere. None: the
            tail is uniform. With ``prior_index``, (len(temperatures), M, C), the priors to choose from.
        unbiased: True if the labels are a sample, which has no tail.
        lengths: (B,) positions of each row, N in all; None unless rows are ragged.
        prior_index: (B,) index of each row's tail prior among M; None if there is one for all rows.
        drawn: True if the listed probabilities are counts of draws. Their mean is right, but a row may leave no mass to
            the tail where the teacher has some, so KL(p || p^) may be infinite.
        shape: Positions of each row, such as (H, W) for pixels. The arrays above then have one entry per position,
            those of all rows one after the other, as for ragged rows.
        dither: Offsets by which unbiased labels were rounded, which takes noise out of the gradient; None: not known.
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
    prior_index: NDArray[np.integer] | None = None
    drawn: bool = False
    shape: tuple[int, ...] = ()
    dither: Dither | None = None

    def __len__(self) -> int:
        return len(self.ids) // math.prod(self.shape) if self.lengths is None else len(self.lengths)

    @property
    def is_sample(self) -> bool:
        """True if probabilities are draws, right on average; figures of a row, such as its KL, are not."""
        return self.unbiased or self.drawn

    def temperature_index(self, temperature: float) -> int:
        """Return the index of ``temperature`` among the captured ones, up to rounding.

        Raises:
            TemperatureNotStored: It was not captured. The message lists those that were.
        """
        for index, stored in enumerate(self.temperatures):
            if same_temperature(stored, temperature):
                return index
        listed = ", ".join(f"{t:g}" for t in self.temperatures)
        raise TemperatureNotStored(
            f"labels: no tail mass at temperature {temperature:g}; they hold {listed}. "
            f"Use one of those, or generate labels at temperature {temperature:g} too"
        )

    def listed_log_probs(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return exact log-probabilities of the listed classes at ``temperature``, (B, K) float32; padding is -inf.

        log p_T(i) = l_i/T - logsumexp_S(l/T) + log(1 - exp(r_T))   (docs/fidelity.md, eq. 2). The stored values are
        normalised also at T = 1, so that listed and tail mass sum to one after quantising.

        Raises:
            TemperatureNotStored: The temperature was not captured.
        """
        index = self.temperature_index(temperature)
        if self.unbiased:
            return self.values
        values = self.values.astype(np.float64) / self.temperatures[index]
        listed = values - _logsumexp(values)[:, None]
        return (listed + log1mexp(self.log_tail[:, index].astype(np.float64))[:, None]).astype(np.float32)

    def log_probs(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return the reconstructed distribution p^ over all classes, (B, *shape, C) float32.

        It is for inspection and tests; losses never build it. With ``tail="bucket"`` unlisted classes are -inf and the
        row sums to the listed mass; with ``renormalize`` the listed classes sum to one.

        Raises:
            TemperatureNotStored: The temperature was not captured.
        """
        index = self.temperature_index(temperature)
        listed = self.listed_log_probs(temperature).astype(np.float64)
        row_of, column = np.nonzero(np.isfinite(self.values))
        if self.unbiased or self.tail == "bucket":
            out = np.full((len(self.ids), self.classes), -np.inf)
        elif self.tail == "renormalize":
            listed = listed - _logsumexp(listed)[:, None]
            out = np.full((len(self.ids), self.classes), -np.inf)
        else:
            prior = self.tail_prior(index).copy()
            prior[row_of, self.ids[row_of, column]] = 0.0
            # Summed, not 1 less the listed share: stored priors sum to 1 only up to rounding.
            rest = prior.sum(axis=1)
            with np.errstate(divide="ignore"):
                out = np.log(prior) + (self.log_tail[:, index] - np.log(np.where(rest > 0, rest, 1.0)))[:, None]
        out[row_of, self.ids[row_of, column]] = listed[row_of, column]
        return out.astype(np.float32).reshape(-1, *self.shape, self.classes)

    def tail_prior(self, index: int) -> NDArray[np.float64]:
        """Return the distribution that unlisted mass follows at temperatures[index], (B, C) float64."""
        shape = (len(self.ids), self.classes)
        if self.tail == "uniform" or self.prior is None:
            return np.broadcast_to(1.0 / self.classes, shape)
        prior = self.prior[index].astype(np.float64)
        return np.broadcast_to(prior, shape) if self.prior_index is None else prior[self.prior_index]

    def take(self, rows: NDArray[np.integer]) -> SparseLabels:
        """Return the labels of ``rows``, in that order."""
        positions, lengths = _positions(self.lengths, rows)
        if self.shape:
            per_row = math.prod(self.shape)
            positions = (positions[:, None] * per_row + np.arange(per_row)).reshape(-1)
        return replace(
            self,
            ids=self.ids[positions],
            values=self.values[positions],
            log_tail=self.log_tail[positions],
            lengths=lengths,
            prior_index=None if self.prior_index is None else self.prior_index[positions],
            dither=None if self.dither is None else self.dither.take(positions),
        )


SoftLabels = DenseLabels | SparseLabels
"""A batch of soft labels of one head."""


def _positions(
    lengths: NDArray[np.integer] | None, rows: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer] | None]:
    """Return the positions that belong to ``rows``, and the lengths of those rows; the rows if they are not ragged."""
    if lengths is None:
        return rows, None
    counts = lengths.astype(np.int64)
    return ranges((np.cumsum(counts) - counts)[rows], counts[rows]), lengths[rows]


def log1mexp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012); -inf at x = 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(x > -0.6931471805599453, np.log(-np.expm1(x)), np.log1p(-np.exp(x))))


def log_softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the log-softmax of logits/temperature over the last axis, reduced in float64, as float32."""
    scaled: NDArray[np.float64] = logits.astype(np.float64) / temperature
    # Relative to the greatest, since a logsumexp of 1e30 has lost the logarithm of the sum.
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # what is below the least float32 has no probability
        log_probs: NDArray[np.float32] = (scaled - _logsumexp(scaled)[..., None]).astype(np.float32)
    return log_probs


def _logsumexp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of the sum of exponentials over the last axis; -inf where every entry is."""
    top = x.max(axis=-1)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(shift + np.log(np.exp(x - shift[..., None]).sum(axis=-1)))
