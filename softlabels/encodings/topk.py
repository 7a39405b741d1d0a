"""``topk`` and ``adaptive``: the likeliest classes with their log-probabilities, and the mass of the rest.

Per row (docs/fidelity.md, section 1): class ids at their true width, descending by probability, so that a prefix is the
smaller top-k and the first is the arg-max; log-probabilities at T = 1 normalised over all classes; log tail mass
r_T = logsumexp over the complement, never 1 - sum, which cancels. With r_T the listed classes are exact at T.

``topk`` lists K classes in every row. ``adaptive`` lists those of probability P or more, at least the likeliest: P is
the price of a byte in KL, one for the whole dataset, so that bytes go to the rows that need them (section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings.log_probs import ABOVE_ZERO, RULED_OUT, LogProbs, pad, unpad
from softlabels.encodings.protocol import COUNT, Arrays, Column, Encoded, id_dtype, require_single_distribution
from softlabels.labels import Head, SparseLabels

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.listing import Listing


@dataclass(frozen=True)
class TopK:
    """The K likeliest classes.

    Attributes:
        k: how many.
        dtype: how log-probabilities are kept (see LogProbs).
    """

    k: int
    dtype: str = "f16"

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"topk:{self.k}:{self.dtype}"

    @property
    def has_tail(self) -> bool:
        """The other classes."""
        return True

    def columns(self, head: Head) -> dict[str, Column]:
        """``ids``, ``tail``, and ``values``, or ``codes``, ``top`` and ``scale``, or ``steps``."""
        require_single_distribution(self.spec, head)
        kept = LogProbs(self.dtype)
        return {
            "ids": Column(id_dtype(head.classes), (self.k,)),
            "tail": Column(kept.tail_dtype, (len(head.temperatures),)),
            **kept.columns((self.k,), None),
        }

    def typical_entries(self, head: Head) -> float:
        """No column is ragged."""
        return 1.0

    def encode(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        *,
        words: NDArray[np.uint64] | None = None,
        residual: bool = False,
    ) -> Encoded:
        """See Encoding.encode."""
        from softlabels.encodings.listing import likeliest
        from softlabels.encodings.logits import checked_float

        arrays, summed = _kept(likeliest(checked_float(logits, head, rows), self.k), self.dtype, head, residual)
        return Encoded(arrays, summed)

    def decode(self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None) -> SparseLabels:
        """See Encoding.decode."""
        return _labels(arrays, self.dtype, head, prior)

    def check(self, arrays: Arrays, head: Head) -> None:
        """Ids and values are what an encoder could have written: see Encoding.check."""
        _check(arrays, self.dtype, head)
        ordered = np.sort(arrays["ids"], axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError("a class listed twice in one row")


@dataclass(frozen=True)
class Adaptive:
    """The classes of probability ``least`` or more at T = 1, and at least the likeliest.

    Attributes:
        least: the probability.
        dtype: how log-probabilities are kept (see LogProbs).
    """

    least: float
    dtype: str = "d4"

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"adaptive:{self.least:g}:{self.dtype}"

    @property
    def has_tail(self) -> bool:
        """The other classes."""
        return True

    def columns(self, head: Head) -> dict[str, Column]:
        """``count`` of the row's classes, ``ids``, and as TopK."""
        require_single_distribution(self.spec, head)
        kept = LogProbs(self.dtype)
        return {
            COUNT: Column("uint16"),
            "ids": Column(id_dtype(head.classes), per=COUNT),
            "tail": Column(kept.tail_dtype, (len(head.temperatures),)),
            **kept.columns((), COUNT),
        }

    def typical_entries(self, head: Head) -> float:
        """Of 1 / least classes that fit, a few."""
        return min(head.classes, max(1.0, 0.15 / self.least))

    def encode(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        *,
        words: NDArray[np.uint64] | None = None,
        residual: bool = False,
    ) -> Encoded:
        """See Encoding.encode."""
        from softlabels.encodings.listing import at_least
        from softlabels.encodings.logits import checked_float

        listing, _ = at_least(checked_float(logits, head, rows), self.least)
        arrays, summed = _kept(listing, self.dtype, head, residual)
        counts = listing.counts.cpu().numpy().astype(np.uint16)
        ragged = LogProbs(self.dtype).columns((), COUNT)
        for name in ("ids", *(name for name, column in ragged.items() if column.per)):
            arrays[name] = unpad(arrays[name], counts)
        return Encoded(arrays | {COUNT: counts}, summed)

    def decode(self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None) -> SparseLabels:
        """See Encoding.decode."""
        return _labels(self._padded(arrays), self.dtype, head, prior)

    def check(self, arrays: Arrays, head: Head) -> None:
        """Ids and values are what an encoder could have written: see Encoding.check."""
        if (arrays[COUNT] < 1).any():
            raise ValueError("a row without a listed class")
        _check(self._padded(arrays), self.dtype, head)
        require_distinct(arrays["ids"], arrays[COUNT])

    def _padded(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        counts = arrays[COUNT]
        ragged = [name for name, column in LogProbs(self.dtype).columns((), COUNT).items() if column.per]
        values = {name: pad(arrays[name], counts, RULED_OUT[name]) for name in ragged}
        return {**arrays, "ids": pad(arrays["ids"], counts), **values}


def require_distinct(ids: NDArray[Any], counts: NDArray[np.integer]) -> None:
    """Raise ValueError where a row of ragged ids lists a class twice."""
    keyed = (np.repeat(np.arange(len(counts), dtype=np.uint64), counts) << np.uint64(32)) | ids.astype(np.uint64)
    keyed.sort()
    if (keyed[1:] == keyed[:-1]).any():
        raise ValueError("a class listed twice in one row")


def _kept(
    listing: Listing,
    dtype: str,
    head: Head,
    residual: bool,  # noqa: FBT001
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64] | None]:
    """The padded arrays of a listing, and the sum of what it leaves."""
    from softlabels.encodings.logits import to_numpy

    kept = LogProbs(dtype)
    log_probs, tails, summed = listing.measure(head.temperatures, residual=residual)
    arrays = {
        "ids": to_numpy(listing.ids).astype(id_dtype(head.classes)),
        "tail": to_numpy(tails).astype(kept.tail_dtype),
        **kept.encode(log_probs),
    }
    return arrays, summed


def _labels(arrays: Arrays, dtype: str, head: Head, prior: NDArray[np.float32] | None) -> SparseLabels:
    return SparseLabels(
        classes=head.classes,
        ids=arrays["ids"].astype(np.int64),
        values=LogProbs(dtype).decode(arrays),
        temperatures=head.temperatures,
        log_tail=arrays["tail"].astype(np.float32),
        tail=head.tail,
        prior=prior,
    )


def _check(arrays: Arrays, dtype: str, head: Head) -> None:
    ids, tail = arrays["ids"], arrays["tail"]
    if ids.size and int(ids.max()) >= head.classes:
        raise ValueError(f"class id {int(ids.max())}, but there are {head.classes} classes")
    if len(ids):
        LogProbs(dtype).check(arrays)
    if np.isnan(tail).any() or (tail > ABOVE_ZERO).any():
        raise ValueError("tail masses that are NaN or above 1")
