"""``topk:K``: the K likeliest classes of every row, with the mass of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.encodings.encoding import Block, Encoded
from softlabels.encodings.listed import Listed
from softlabels.encodings.log_probs import NAMES
from softlabels.encodings.option_parsers import integer, require_count
from softlabels.errors import InvalidArgument
from softlabels.labels import Head, SparseLabels

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.listing import Listing


@dataclass(frozen=True)
class TopK(Listed):
    """The K likeliest classes.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels.encodings import TopK
        >>> from softlabels.labels import Head
        >>> encoding, head = TopK(2), Head(encoding="topk:2:f16", classes=4)
        >>> encoded = encoding.encode(torch.tensor([[0.0, 5.0, 1.0, 2.0]]), head, np.arange(1))
        >>> encoding.decode(encoded.arrays, head).ids.tolist()
        [[1, 3]]

    Attributes:
        k: Number of listed classes K.
        dtype: Storage of the log-probabilities (see LogProbs).
        priors: Tail priors of the codebook that rows choose from; 1: the store's own prior for all rows.
    """

    name: ClassVar[str] = "topk"
    form: ClassVar[str] = f"topk:K[:{'|'.join(NAMES)}[:M]] (M: number of tail priors)"
    example: ClassVar[str] = "topk:4"

    k: int
    dtype: str = "f16"
    priors: int = 1

    @classmethod
    def from_options(cls, options: list[str], classes: int) -> Self:
        """See Encoding.from_options."""
        require_count(options, 1, 3)
        k = integer(options[0], 1, 2**31)
        if k > classes:
            raise InvalidArgument(
                f"topk:{k}: lists {k} classes per row, but there are {classes}; expected 1 to {classes}"
            )
        return cls(k, *cls.listing_options(options[1:]))

    @property
    def spec(self) -> str:
        """Canonical specification."""
        return f"topk:{self.k}:{self.suffix}"

    def item_columns(self, head: Head) -> dict[str, Column]:
        """Return ``ids``, ``tail``, and ``values``, or ``codes``, ``top`` and ``scale``, or ``steps``."""
        return self.listed_columns(head, (self.k,), None)

    def choose(self, values: Tensor) -> Listing:
        """See Listed.choose."""
        from softlabels.encodings.listing import likeliest

        return likeliest(values, self.k)

    def encode_items(self, block: Block) -> Encoded:
        """See ItemEncoding.encode_items."""
        return self.encode_listing(self.choose(block.values), block)

    def decode_items(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SparseLabels:
        """See ItemEncoding.decode_items."""
        return self.decode_padded(arrays, head, prior, widen=widen)

    def check_items(self, arrays: Arrays, head: Head) -> None:
        """See ItemEncoding.check_items."""
        self.check_padded(arrays, head)
        ordered = np.sort(arrays["ids"], axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError("a class listed twice in one row")


ENCODING = TopK
