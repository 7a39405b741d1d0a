"""Encoding a few rows at a time, so that what is made of their logits on the way stays in a core's cache.

A batch of a language model's logits is tens of MiB; each pass over it from memory, and each fresh page, costs as much
as an exponential. On accelerators a batch is encoded at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings.codebook import Codebook
from softlabels.encodings.logits import check_shape
from softlabels.encodings.protocol import Encoded
from softlabels.labels import Head
from softlabels.rng import words as words_of

if TYPE_CHECKING:
    from torch import Tensor

ELEMENTS = 2**20
"""Logits of a block."""


class EncodeBlock(Protocol):
    """Encodes the rows of one block."""

    def __call__(
        self,
        logits: Tensor,
        head: Head,
        rows: NDArray[np.int64],
        words: NDArray[np.uint64],
        residual: bool,  # noqa: FBT001
        codebook: Codebook | None,
    ) -> Encoded:
        """As Encoding.encode."""


def in_blocks(
    encode: EncodeBlock,
    logits: Tensor,
    head: Head,
    rows: NDArray[np.int64],
    *,
    words: NDArray[np.uint64] | None,
    residual: bool,
    codebook: Codebook | None,
) -> Encoded:
    """What ``encode`` makes of a batch, block by block; arguments as for Encoding.encode."""
    check_shape(logits, head, rows)
    words = words_of(0, rows) if words is None else words
    step = max(1, ELEMENTS // head.classes) if logits.device.type == "cpu" else max(1, len(rows))
    parts = [
        encode(logits[at : at + step], head, rows[at : at + step], words[at : at + step], residual, codebook)
        for at in range(0, max(1, len(rows)), step)
    ]
    if len(parts) == 1:
        return parts[0]
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    sums = [part.residual for part in parts if part.residual is not None]
    return Encoded(arrays, np.sum(sums, axis=0) if sums else None)
