"""Token ids of texts: sequences of any length, from lists, arrays or a column of a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.keys import KEY_BYTES, as_keys, content_keys
from softlabels.sources.ids import require_unique
from softlabels.sources.keyed_source import KeyedSource
from softlabels.sources.protocol import Columns
from softlabels.sources.structure import Ragged

MIN_TOKENS = 2
"""Tokens of a sequence: a single token predicts nothing."""


class TokenSource(KeyedSource):
    """A source of token sequences; see Source for its members.

    Inputs are Ragged int64. A sequence is named by its token ids, whatever their integer type, or by ``ids``. Opening
    reads everything once: a few microseconds per sequence.

    Args:
        sequences: Token ids of each text: lists, 1-D arrays, an (n, L) array, or ``dataset["input_ids"]``.
        ids: Names of the sequences, all different: text, whole numbers, or (n, 16) keys; None to name them by content.
        spec: Name of the data in messages.

    Raises:
        InvalidData: There are no sequences, one has fewer than two tokens or something else than token ids, or two
            have one id; names the row.
        InvalidArgument: The number of ids is not that of sequences.

    Example:
        >>> source = TokenSource([[1, 2, 3], [4, 5]])
        >>> source.inputs(np.array([1, 0])).lengths.tolist()
        [2, 3]
    """

    def __init__(self, sequences: Sequence[Any], ids: Sequence[object] | None = None, *, spec: str = "tokens") -> None:
        self._sequences = sequences
        self._spec = spec
        if len(sequences) == 0:
            raise InvalidData(f"{spec}: the data has no sequences")
        if ids is not None and len(ids) != len(sequences):
            raise InvalidArgument(f"{spec}: every row needs one id, got {len(ids)} ids for {len(sequences)} sequences")
        keys = np.empty((len(sequences), KEY_BYTES), np.uint8)
        self._longest = 0
        for row in range(len(sequences)):
            tokens = self._tokens(row)
            self._longest = max(self._longest, len(tokens))
            if ids is None:
                keys[row] = content_keys(tokens[None])[0]
        if ids is not None:
            keys = as_keys(ids)
            require_unique(keys, spec)
        super().__init__(spec, Columns(inputs=("input_ids",), id=None if ids is None else "id"), keys)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Number of tokens of the longest sequence, (L,)."""
        return (self._longest,)

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""
        return np.dtype(np.int64)

    def inputs(self, rows: NDArray[np.int64]) -> Ragged:
        """Return the token ids of ``rows``."""
        sequences = [self._tokens(int(row)) for row in rows]
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        return Ragged(np.concatenate([np.empty(0, np.int64), *sequences]), lengths)

    def _tokens(self, row: int) -> NDArray[np.int64]:
        tokens = np.asarray(self._sequences[row])
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or len(tokens) < MIN_TOKENS or tokens.min() < 0:
            lowest = f" with the value {tokens.min()}" if tokens.size and tokens.dtype.kind in "iu" else ""
            raise InvalidData(
                f"{self._spec}, row {row}: invalid token ids, got {tokens.dtype} of shape {tokens.shape}{lowest}; "
                f"expected one dimension of at least {MIN_TOKENS} whole numbers from 0"
            )
        return tokens.astype(np.int64, copy=False)


def input_keys(inputs: NDArray[np.generic] | Ragged, count: int) -> NDArray[np.uint8]:
    """Return the content keys of the first ``count`` inputs of a batch, (count, 16).

    Args:
        inputs: (B, *shape) array, or sequences of different lengths.
        count: Number of inputs from the first on.

    Example:
        >>> batch = Ragged(np.array([1, 2, 3, 4, 5]), np.array([3, 2]))
        >>> bool((input_keys(batch, 2) == TokenSource([[1, 2, 3], [4, 5]]).keys()).all())
        True
    """
    if not isinstance(inputs, Ragged):
        return content_keys(inputs[:count])
    ends = np.cumsum(inputs.lengths)[:count]
    keys = [
        content_keys(inputs.values[end - length : end][None]) for end, length in zip(ends, inputs.lengths, strict=False)
    ]
    return np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *keys])
