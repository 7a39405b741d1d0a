"""What an encoding is: named arrays per row, an encoder where the logits are, a decoder that needs NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays, Column
from softlabels.errors import InvalidArgument
from softlabels.labels import Head, SoftLabels

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.encodings.codebook import Codebook


@dataclass(frozen=True)
class Encoded:
    """What encoding a batch gives.

    Attributes:
        arrays: the columns, on the CPU.
        residual: (2, len(temperatures), C) float64, the raw material of the tail prior: the sum over rows of p_T where
            it was not listed, and the sum that would be if each row's unlisted mass were spread evenly, times C; None
            unless asked for, or where the encoding lists everything.
    """

    arrays: dict[str, NDArray[Any]]
    residual: NDArray[np.float64] | None = None


class Encoding(Protocol):
    """A family of columns with its exact decoder. Implementations are frozen and hold only their options."""

    @property
    def spec(self) -> str:
        """Canonical specification; parsing it gives this encoding again."""

    @property
    def has_tail(self) -> bool:
        """Whether some mass may go unlisted."""

    @property
    def priors(self) -> int:
        """Tail priors of the codebook that rows choose from; 1: there is no codebook."""

    def columns(self, head: Head) -> dict[str, Column]:
        """The columns written for ``head``, by name."""

    def typical_entries(self, head: Head) -> float:
        """Entries that a row of ragged columns may be expected to have, for sizing units; a guess."""

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
        """Encode a batch where it is.

        Args:
            logits: (B, *head.position_shape, C), any float dtype, any device.
            head: what they are.
            rows: (B,) absolute row numbers, for messages.
            words: (B,) uint64 from which all that is random about an item is drawn (draws.words); None: from ``rows``.
            residual: also give the sum of the unlisted mass.
            codebook: of encodings with ``priors`` above 1, what to choose from.

        Raises:
            InvalidLogits: NaN, +infinity, a row of -infinity alone, or another shape; names the row.
        """

    def decode(
        self, arrays: Arrays, head: Head, prior: NDArray[np.float32] | None = None, *, widen: bool = True
    ) -> SoftLabels:
        """Decode the columns of a head into labels.

        This is the only decoder of an encoding. A reader for NumPy uses ``widen=True``. A reader that copies labels to
        an accelerator uses ``widen=False``, wraps the arrays as tensors, and leaves widening to the losses, which do it
        on the device: two to four times fewer bytes are moved.

        Args:
            arrays: Columns of the head, in native byte order.
            head: Head that the columns belong to.
            prior: Tail prior of the store, (len(temperatures), C) float32, or its codebook, (len(temperatures), M, C).
                None where the store has neither.
            widen: Return ids as int64 and values as float32. If False, ids and values that are stored as they are used
                keep their stored dtype and memory; values that have to be computed are float32 in both cases.

        Returns:
            Labels of all rows. Both settings of ``widen`` give equal numbers.

        Raises:
            ValueError: Rows too many and too uneven to be padded to the longest in memory.
        """

    def check(self, arrays: Arrays, head: Head) -> None:
        """Raise ValueError, saying what is wrong, where values cannot have come from the encoder."""


def id_dtype(classes: int) -> str:
    """The narrowest unsigned type that holds every class id."""
    return "uint8" if classes <= 2**8 else "uint16" if classes <= 2**16 else "uint32"


def row_bytes(encoding: Encoding, head: Head) -> float:
    """Bytes that a row (a position, where rows are ragged) may be expected to have before compression."""
    entries = encoding.typical_entries(head)
    return sum(
        column.entry_bytes * (1 if column.per is None else entries) for column in encoding.columns(head).values()
    )


def require_single_distribution(spec: str, head: Head) -> None:
    """Raise InvalidArgument unless each encoded item is one distribution."""
    if head.position_shape:
        raise InvalidArgument(
            f"{spec} keeps one distribution a row, or tokens in ragged rows; this head has shape {head.shape}. Use "
            "dense, or Head(shape=(None,))"
        )
