"""``adaptive:P``: the classes of probability P or more, and at least the likeliest.

P is the price of a byte in KL, one for the whole dataset, so that bytes go to the rows that need them
(docs/fidelity.md, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import COUNT, Arrays, Column
from softlabels.encodings.encoding import Block, Encoded, check_distinct
from softlabels.encodings.listed import Listed
from softlabels.encodings.log_probs import NAMES, RULED_OUT, LogProbs, pad, unpad
from softlabels.encodings.option_parsers import probability, require_count
from softlabels.labels import Head, SparseLabels

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.listing import Listing


@dataclass(frozen=True)
class Adaptive(Listed):
    """The classes of probability ``least`` or more at T = 1, and at least the likeliest.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels.encodings import Adaptive
        >>> from softlabels.labels import Head
        >>> encoding, head = Adaptive(0.2), Head(encoding="adaptive:0.2:d4", classes=4)
        >>> logits = torch.tensor([[0.0, 5.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
        >>> encoding.encode(logits, head, np.arange(2)).arrays["count"].tolist()
        [1, 4]

    Attributes:
        least: Probability from which on a class is listed.
        dtype: Storage of the log-probabilities (see LogProbs).
        priors: Tail priors of the codebook that rows choose from; 1: the store's own prior for all rows.
    """

    name: ClassVar[str] = "adaptive"
    form: ClassVar[str] = f"adaptive:P[:{'|'.join(NAMES)}[:M]] (P: least probability listed; M: number of tail priors)"
    example: ClassVar[str] = "adaptive:0.01"

    least: float
    dtype: str = "d4"
    priors: int = 1

    @classmethod
    def from_options(cls, options: list[str], classes: int) -> Self:
        """See Encoding.from_options."""
        require_count(options, 1, 3)
        return cls(probability(options[0]), *cls.listing_options(options[1:]))

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"adaptive:{self.least:g}:{self.suffix}"

    def item_columns(self, head: Head) -> dict[str, Column]:
        """Return ``count``, the listed classes of a row, and the columns of ``topk``."""
        return {COUNT: Column("uint16"), **self.listed_columns(head, (), COUNT)}

    def typical_entries(self, head: Head) -> float:
        """Return an estimate: a row has a few of the 1 / least classes that fit."""
        return min(head.classes, max(1.0, 0.15 / self.least))

    def choose(self, values: Tensor) -> Listing:
        """See Listed.choose."""
        from softlabels.encodings.listing import at_least

        return at_least(values, self.least)

    def encode_items(self, block: Block) -> Encoded:
        """See ItemEncoding.encode_items."""
        listing = self.choose(block.values)
        padded = self.encode_listing(listing, block)
        counts = listing.counts.cpu().numpy().astype(np.uint16)
        ragged = {name: unpad(padded.arrays[name], counts) for name in self._ragged()}
        return Encoded({**padded.arrays, **ragged, COUNT: counts}, padded.residual)

    def decode_items(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See ItemEncoding.decode_items."""
        return self.decode_padded(self._padded(arrays), head, prior, widen=widen)

    def check_items(self, arrays: Arrays, head: Head) -> None:
        """See ItemEncoding.check_items."""
        if (arrays[COUNT] < 1).any():
            raise ValueError("a row without a listed class")
        self.check_padded(self._padded(arrays), head)
        check_distinct(arrays["ids"], arrays[COUNT])

    def _ragged(self) -> list[str]:
        """Return the names of the columns with one entry per listed class."""
        return ["ids", *(name for name, column in LogProbs(self.dtype).columns((), COUNT).items() if column.per)]

    def _padded(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        padded = {name: pad(arrays[name], arrays[COUNT], RULED_OUT.get(name, 0)) for name in self._ragged()}
        return {**arrays, **padded}


ENCODING = Adaptive
