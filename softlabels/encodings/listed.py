"""Base of ``topk`` and ``adaptive``: some classes with their log-probabilities, and the mass of the rest.

Per row (docs/fidelity.md, section 2): class ids in the narrowest type, descending by probability, so that a prefix is
a smaller top-k and the first is the arg-max; log-probabilities at T = 1 normalised over all classes; and the log tail
mass r_T at each temperature, a logsumexp over the complement, since 1 - sum would cancel. With r_T the listed classes
are exact at T.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.encodings.encoding import Block, Encoded, check_ids, id_dtype
from softlabels.encodings.items import ItemEncoding
from softlabels.encodings.log_probs import MAX_ABOVE_ZERO, NAMES, LogProbs
from softlabels.encodings.option_parsers import choice, integer
from softlabels.labels import Head, SparseLabels

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.listing import Listing

PRIOR = "prior"
"""Column with the index of each row's tail prior in the codebook."""

MAX_PRIORS = 256
"""Upper bound of the priors of a codebook: a row's choice is one byte."""

MAX_LOG_TAIL = -(2.0**-24)
"""Upper bound of a log tail mass, the float16 nearest to 0; rounding must not take all of a listed class's mass."""

_MAX_TAIL_BITS = np.float16(MAX_LOG_TAIL).view(np.uint16)

MAX_LOST_MASS = 1e-3
"""Largest tail mass of a row that lists every class, which has nowhere to go."""


class Listed(ItemEncoding):
    """Listed classes with a tail.

    Attributes:
        dtype: Storage of the log-probabilities (see LogProbs).
        priors: Tail priors of the codebook that rows choose from; 1: the store's own prior for all rows.
    """

    dtype: str
    priors: int

    @staticmethod
    def listing_options(options: list[str]) -> tuple[str, int] | tuple[str] | tuple[()]:
        """Return ``dtype`` and ``priors`` from the last options of a specification, as far as they are there."""
        if len(options) == 2:
            return choice(options[0], NAMES), integer(options[1], 1, MAX_PRIORS)
        return (choice(options[0], NAMES),) if options else ()

    @property
    def suffix(self) -> str:
        """Canonical spelling of ``dtype`` and ``priors``."""
        return f"{self.dtype}:{self.priors}" if self.priors > 1 else self.dtype

    @property
    def has_tail(self) -> bool:
        """True: the other classes are the tail."""
        return True

    def listing(self, logits: Tensor, head: Head, rows: NDArray[np.int64]) -> Listing:
        """Return the listed classes of (B, C) logits; arguments and errors as for Encoding.encode."""
        from softlabels.encodings.logits import checked_float

        return self.choose(checked_float(logits, head, rows))

    def pilot_distributions(self, logits: Tensor, head: Head, rows: NDArray[np.int64]) -> list[Tensor]:
        """See Encoding.pilot_distributions: the probabilities of the classes that rows do not list."""
        listing = self.listing(logits, head, rows)
        return [listing.unlisted_probabilities(temperature) for temperature in head.temperatures]

    @abstractmethod
    def choose(self, values: Tensor) -> Listing:
        """Return the listed classes of (B, C) float32 logits."""

    def listed_columns(self, head: Head, shape: tuple[int, ...], per: str | None) -> dict[str, Column]:
        """Return the columns of the listed classes and the tail.

        Args:
            head: Head to store.
            shape: Shape of one entry of ``ids``: (K,), or () if it is ragged.
            per: Column that counts the entries of ``ids``; None if it is not ragged.
        """
        log_probs = LogProbs(self.dtype)
        return {
            "ids": Column(id_dtype(head.classes), shape, per),
            "tail": Column(log_probs.tail_dtype, (len(head.temperatures),)),
            **log_probs.columns(shape, per),
            **({PRIOR: Column("uint8")} if self.priors > 1 else {}),
        }

    def encode_listing(self, listing: Listing, block: Block) -> Encoded:
        """Return the padded arrays of a listing, and the sums for the tail prior."""
        from softlabels.encodings.logits import to_numpy

        head, log_probs = block.head, LogProbs(self.dtype)
        values, tails, sums = listing.measure(head.temperatures, residual=block.residual)
        arrays = {
            "ids": to_numpy(listing.ids).astype(id_dtype(head.classes)),
            "tail": to_numpy(log_probs.rounded_tail(tails)),
            **log_probs.encode(values, max_temperature=max(head.temperatures)),
        }
        if block.codebook is not None:
            arrays[PRIOR] = block.codebook.choose(listing, head.temperatures[0])
        return Encoded(arrays, sums)

    def decode_padded(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None, *, widen: bool
    ) -> SparseLabels:
        """Return the labels of padded arrays; see Encoding.decode."""
        tail = arrays["tail"]
        return SparseLabels(
            classes=head.classes,
            ids=arrays["ids"].astype(np.int64) if widen else arrays["ids"],
            values=LogProbs(self.dtype).decode(arrays, widen=widen),
            temperatures=head.temperatures,
            log_tail=_at_most_max(tail).astype(np.float32 if widen else tail.dtype, copy=False),
            tail=head.tail,
            prior=prior,
            prior_index=arrays.get(PRIOR) if prior is not None else None,
        )

    def check_padded(self, arrays: Arrays, head: Head) -> None:
        """Raise ValueError unless padded arrays decode to distributions; see Encoding.check."""
        tail = arrays["tail"]
        check_ids(arrays["ids"], head)
        if len(tail):
            LogProbs(self.dtype).check(arrays)
        if np.isnan(tail).any() or (tail > MAX_ABOVE_ZERO).any():
            raise ValueError("tail masses that are NaN or above 1")
        if arrays["ids"].shape[1] == head.classes:
            lists_all = LogProbs(self.dtype).counts(arrays) == head.classes
            if (tail[lists_all] > np.log(MAX_LOST_MASS)).any():
                raise ValueError("a row that lists every class, and a tail mass above 0")
        if self.priors > 1 and arrays[PRIOR].size and int(arrays[PRIOR].max()) >= self.priors:
            raise ValueError(f"tail prior {int(arrays[PRIOR].max())}, but there are {self.priors}")


def _at_most_max(tail: NDArray[Any]) -> NDArray[Any]:
    """Return log tail masses of at most MAX_LOG_TAIL."""
    if tail.dtype == np.float16:
        # The bits of negative numbers grow with their magnitude, and those of other numbers are smaller. An integer
        # maximum takes a microsecond per batch, a minimum of float16 takes a tenth of the loader's time.
        bounded: NDArray[Any] = np.maximum(tail.view(np.uint16), _MAX_TAIL_BITS).view(np.float16)
        return bounded
    return np.asarray(np.minimum(tail, tail.dtype.type(MAX_LOG_TAIL)))
