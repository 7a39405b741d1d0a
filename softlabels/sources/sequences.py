"""Token ids of texts: sequences of any length, from lists, arrays or a column of a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.keys import KEY_BYTES, as_keys, content_keys, fingerprint
from softlabels.sources.protocol import Columns
from softlabels.sources.structure import Ragged

SHORTEST = 2
"""Tokens of a sequence: one alone predicts nothing."""


class TokenSource:
    """A source of token sequences; see Source for what its members mean.

    Inputs come as Ragged int64. A sequence is named by its token ids, whatever their integer type, or by ``ids``.
    Opening reads everything once: a few microseconds a sequence.

    Args:
        sequences: token ids of each text: lists, 1-D arrays, an (n, L) array, or ``dataset["input_ids"]``.
        ids: names of the sequences, text or integers, or (n, 16) keys; None: by content.
        spec: what messages call it.

    Raises:
        InvalidData: no sequences, fewer than two tokens in one, or something that is no token id; names the row.
        InvalidArgument: another number of ids than of sequences.
    """

    def __init__(self, sequences: Sequence[Any], ids: Sequence[object] | None = None, *, spec: str = "tokens") -> None:
        self._sequences = sequences
        self._spec = spec
        if len(sequences) == 0:
            raise InvalidData(f"{spec} has no sequences")
        if ids is not None and len(ids) != len(sequences):
            raise InvalidArgument(f"{spec} has {len(sequences)} sequences, but there are {len(ids)} ids")
        self._by_id = ids is not None
        keys = np.empty((len(sequences), KEY_BYTES), np.uint8)
        self._longest = 0
        for row in range(len(sequences)):
            tokens = self._tokens(row)
            self._longest = max(self._longest, len(tokens))
            if ids is None:
                keys[row] = content_keys(tokens[None])[0]
        self._keys = keys if ids is None else as_keys(ids)
        self._fingerprint = fingerprint([self._keys])

    @property
    def spec(self) -> str:
        """What messages call it."""
        return self._spec

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        return Columns(inputs=("input_ids",), id="id" if self._by_id else None)

    @property
    def fingerprint(self) -> str:
        """Names the ordered keys."""
        return self._fingerprint

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Tokens of the longest sequence."""
        return (self._longest,)

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""
        return np.dtype(np.int64)

    @property
    def classes(self) -> None:
        """There are no hard labels beside the tokens themselves."""

    @property
    def class_names(self) -> None:
        """There are none."""

    def __len__(self) -> int:
        return len(self._sequences)

    def keys(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Keys of rows start to stop, (n, 16)."""
        return self._keys[start:stop]

    def inputs(self, rows: NDArray[np.int64]) -> Ragged:
        """The token ids of ``rows``."""
        parts = [self._tokens(int(row)) for row in rows]
        lengths = np.array([len(part) for part in parts], np.int64)
        return Ragged(np.concatenate([np.empty(0, np.int64), *parts]), lengths)

    def labels(self, rows: NDArray[np.int64]) -> None:
        """There are none."""

    def split(self, name: str | None) -> NDArray[np.int64]:
        """All rows.

        Raises:
            InvalidArgument: a name was given; there are no splits.
        """
        if name is not None:
            raise InvalidArgument(f"{self._spec} has no split {name!r}: it has no split column")
        return np.arange(len(self), dtype=np.int64)

    def splits(self) -> tuple[str, ...]:
        """There are none."""
        return ()

    def _tokens(self, row: int) -> NDArray[np.int64]:
        tokens = np.asarray(self._sequences[row])
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or len(tokens) < SHORTEST or tokens.min() < 0:
            raise InvalidData(
                f"{self._spec}, row {row}: token ids are at least {SHORTEST} whole numbers from 0 in one dimension, "
                f"not {tokens.dtype} of shape {tokens.shape}"
                + (f" with {tokens.min()}" if tokens.size and tokens.dtype.kind in "iu" else "")
            )
        return tokens.astype(np.int64, copy=False)


def input_keys(inputs: NDArray[np.generic] | Ragged, count: int) -> NDArray[np.uint8]:
    """Keys by content of the first inputs of a batch, (count, 16)."""
    if not isinstance(inputs, Ragged):
        return content_keys(inputs[:count])
    ends = np.cumsum(inputs.lengths)[:count]
    parts = [
        content_keys(inputs.values[end - length : end][None]) for end, length in zip(ends, inputs.lengths, strict=False)
    ]
    return np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *parts])
