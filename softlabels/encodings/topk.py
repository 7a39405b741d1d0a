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

from softlabels.columns import COUNT, Arrays, Column
from softlabels.encodings.codebook import Codebook
from softlabels.encodings.log_probs import ABOVE_ZERO, RULED_OUT, LogProbs, pad, unpad
from softlabels.encodings.protocol import Encoded, id_dtype, require_single_distribution
from softlabels.labels import Head, SparseLabels

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.listing import Listing


PRIOR = "prior"
"""Column with the index of each row's tail prior in the codebook."""


@dataclass(frozen=True)
class TopK:
    """The K likeliest classes.

    Attributes:
        k: how many.
        dtype: how log-probabilities are kept (see LogProbs).
        priors: of the codebook that rows choose their tail prior from; 1: the store's own for all.
    """

    k: int
    dtype: str = "f16"
    priors: int = 1

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"topk:{self.k}:{self.dtype}" + (f":{self.priors}" if self.priors > 1 else "")

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
            **({PRIOR: Column("uint8")} if self.priors > 1 else {}),
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
        codebook: Codebook | None = None,
    ) -> Encoded:
        """See Encoding.encode."""
        from softlabels.encodings.blocks import in_blocks

        return in_blocks(self._encode_block, logits, head, rows, words=words, residual=residual, codebook=codebook)

    def _encode_block(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        words: NDArray[np.uint64],
        residual: bool,  # noqa: FBT001
        codebook: Codebook | None,
    ) -> Encoded:
        return _encode(self.listing(logits, head, rows), self.dtype, head, residual=residual, codebook=codebook)

    def listing(self, logits: Tensor, head: Head, rows: NDArray[np.int64]) -> Listing:
        """The classes that are listed; see Encoding.encode."""
        from softlabels.encodings.listing import likeliest
        from softlabels.encodings.logits import checked_float

        return likeliest(checked_float(logits, head, rows), self.k)

    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See Encoding.decode."""
        return _labels(arrays, self.dtype, head, prior, widen=widen)

    def check(self, arrays: Arrays, head: Head) -> None:
        """Ids and values are what an encoder could have written: see Encoding.check."""
        _check(arrays, self.dtype, head, self.priors)
        ordered = np.sort(arrays["ids"], axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError("a class listed twice in one row")


@dataclass(frozen=True)
class Adaptive:
    """The classes of probability ``least`` or more at T = 1, and at least the likeliest.

    Attributes:
        least: the probability.
        dtype: how log-probabilities are kept (see LogProbs).
        priors: of the codebook that rows choose their tail prior from; 1: the store's own for all.
    """

    least: float
    dtype: str = "d4"
    priors: int = 1

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"adaptive:{self.least:g}:{self.dtype}" + (f":{self.priors}" if self.priors > 1 else "")

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
            **({PRIOR: Column("uint8")} if self.priors > 1 else {}),
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
        codebook: Codebook | None = None,
    ) -> Encoded:
        """See Encoding.encode."""
        from softlabels.encodings.blocks import in_blocks

        return in_blocks(self._encode_block, logits, head, rows, words=words, residual=residual, codebook=codebook)

    def _encode_block(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        words: NDArray[np.uint64],
        residual: bool,  # noqa: FBT001
        codebook: Codebook | None,
    ) -> Encoded:
        listing = self.listing(logits, head, rows)
        encoded = _encode(listing, self.dtype, head, residual=residual, codebook=codebook)
        arrays = dict(encoded.arrays)
        counts = listing.counts.cpu().numpy().astype(np.uint16)
        ragged = LogProbs(self.dtype).columns((), COUNT)
        for name in ("ids", *(name for name, column in ragged.items() if column.per)):
            arrays[name] = unpad(arrays[name], counts)
        return Encoded(arrays | {COUNT: counts}, encoded.residual)

    def listing(self, logits: Tensor, head: Head, rows: NDArray[np.int64]) -> Listing:
        """The classes that are listed; see Encoding.encode."""
        from softlabels.encodings.listing import at_least
        from softlabels.encodings.logits import checked_float

        return at_least(checked_float(logits, head, rows), self.least)

    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See Encoding.decode."""
        return _labels(self._padded(arrays), self.dtype, head, prior, widen=widen)

    def check(self, arrays: Arrays, head: Head) -> None:
        """Ids and values are what an encoder could have written: see Encoding.check."""
        if (arrays[COUNT] < 1).any():
            raise ValueError("a row without a listed class")
        _check(self._padded(arrays), self.dtype, head, self.priors)
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


def _encode(listing: Listing, dtype: str, head: Head, *, residual: bool, codebook: Codebook | None) -> Encoded:
    """The padded arrays of a listing, and the sum of what it leaves."""
    from softlabels.encodings.logits import to_numpy

    kept = LogProbs(dtype)
    log_probs, tails, summed = listing.measure(head.temperatures, residual=residual)
    arrays = {
        "ids": to_numpy(listing.ids).astype(id_dtype(head.classes)),
        "tail": to_numpy(tails.half() if kept.tail_dtype == "float16" else tails),
        **kept.encode(log_probs),
    }
    if codebook is not None:
        arrays[PRIOR] = codebook.choose(listing, head.temperatures[0])
    return Encoded(arrays, summed)


def _labels(arrays: Arrays, dtype: str, head: Head, prior: NDArray[np.float32] | None, *, widen: bool) -> SparseLabels:
    return SparseLabels(
        classes=head.classes,
        ids=arrays["ids"].astype(np.int64) if widen else arrays["ids"],
        values=LogProbs(dtype).decode(arrays, widen=widen),
        temperatures=head.temperatures,
        log_tail=arrays["tail"].astype(np.float32) if widen else arrays["tail"],
        tail=head.tail,
        prior=prior,
        prior_index=arrays.get(PRIOR) if prior is not None else None,
    )


def _check(arrays: Arrays, dtype: str, head: Head, priors: int) -> None:
    ids, tail = arrays["ids"], arrays["tail"]
    if ids.size and int(ids.max()) >= head.classes:
        raise ValueError(f"class id {int(ids.max())}, but there are {head.classes} classes")
    if len(ids):
        LogProbs(dtype).check(arrays)
    if np.isnan(tail).any() or (tail > ABOVE_ZERO).any():
        raise ValueError("tail masses that are NaN or above 1")
    if priors > 1 and arrays[PRIOR].size and int(arrays[PRIOR].max()) >= priors:
        raise ValueError(f"tail prior {int(arrays[PRIOR].max())}, but there are {priors}")
