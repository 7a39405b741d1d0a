"""The token ids that a store holds beside its labels, as a source: students train from the store alone.

Opening reads the ids of all rows once, which verifies them, into memory or, above 4 MiB, into an unlinked temporary
file: 3 bytes per token of a vocabulary up to 65,536.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import ranges
from softlabels.errors import InvalidArgument
from softlabels.sources.keyed_source import KeyedSource
from softlabels.sources.protocol import Columns
from softlabels.sources.scratch import ArrayBuilder
from softlabels.sources.structure import Ragged
from softlabels.store import Store
from softlabels.store.format.token_inputs import IDS, LENGTH, MARKS
from softlabels.text import LABELLED, Tokenizer
from softlabels.text.options import Target

MARKED_ROWS = 64
"""Rows whose marks show what labels belong to."""


class StoreTokens(KeyedSource):
    """A source of the token ids of a store; see Source for its members. Rows are those of the store.

    Args:
        store: A store of text.

    Attributes:
        tokenizer: The tokenizer of the store; None if its ids came without one.
        chunk_rows: Rows of each chunk of the store, (chunks,). Without labels, batches have the order of the store's.

    Raises:
        InvalidArgument: The store holds labels alone.
        StoreCorrupt: The bytes are not those that were committed.
    """

    def __init__(self, store: Store) -> None:
        inputs = store.inputs
        if inputs is None:
            raise InvalidArgument(
                f"{store.storage}: holds labels alone, got no token ids; expected data. Name it with data="
            )
        document = store.tokenizer_document()
        self.tokenizer = None if document is None else Tokenizer.from_bytes(document, str(store.storage))
        self.chunk_rows = np.asarray(store.chunk_rows(), np.int64)
        counts = [columns[LENGTH] for columns in store.read_chunks(range(store.chunks), [LENGTH])]
        lengths = np.concatenate(counts).astype(np.int64)
        self._lengths, self._starts = lengths, np.cumsum(lengths) - lengths
        tokens = int(lengths.sum())
        ids, marks = ArrayBuilder(tokens, (), np.dtype(inputs.dtype)), ArrayBuilder(tokens, (), np.dtype(np.uint8))
        keys = ArrayBuilder(store.rows, (16,), np.dtype(np.uint8))
        for columns in store.read_chunks(range(store.chunks), ["key", LENGTH, IDS, MARKS]):
            keys.append(columns["key"])
            ids.append(columns[IDS])
            marks.append(columns[MARKS])
        self._ids, self._marks = ids.finish(), marks.finish()
        super().__init__(str(store.storage), Columns(inputs=("ids",)), keys.finish().view(np.uint8))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with arrays of its own, without temporary files."""
        return super().__getstate__() | {"_ids": np.array(self._ids), "_marks": np.array(self._marks)}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Tokens of the longest row."""
        return (int(self._lengths.max()),)

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""
        return np.dtype(np.int64)

    @property
    def target_of_labels(self) -> Target:
        """Target of the labels: the ``next`` token of a position, each ``token``, or the ``row``."""
        return _target(self._lengths, self._marks)

    def inputs(self, rows: NDArray[np.int64]) -> Ragged:
        """Return the token ids and marks of ``rows``."""
        lengths = self._lengths[rows]
        entries = ranges(self._starts[rows], lengths)
        return Ragged(self._ids[entries].astype(np.int64), lengths, np.array(self._marks[entries]))


def target_of_store(store: Store) -> Target:
    """Return what the labels of a store of text belong to, from its first rows.

    Args:
        store: A store that holds token ids.

    Raises:
        StoreCorrupt: A shard is damaged.
    """
    _, lengths, marks = store.read_inputs(np.arange(min(store.rows, MARKED_ROWS)))
    return _target(lengths, marks)


def _target(lengths: NDArray[Any], marks: NDArray[Any]) -> Target:
    if not (marks & LABELLED).any():
        return "row"
    # The last token of a row predicts nothing.
    return "token" if marks[lengths[0] - 1] & LABELLED else "next"
