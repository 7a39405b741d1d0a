"""Rows of tokens: one document each, or documents packed into rows of equal length.

Every token carries marks. ``START`` is set where a document begins, which attention must not cross. ``LABELLED`` is set
at the positions that ragged heads have entries for: without a prompt mask all but the last token of a row, so that L
tokens have exactly L - 1 entries and entry i belongs to the prediction of token i + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import ranges
from softlabels.errors import InvalidArgument, InvalidData
from softlabels.text.corpus import Corpus

START = 1
"""Mark of the first token of a document."""

LABELLED = 2
"""Mark of a position that ragged heads have an entry for."""

SECOND = 4
"""Mark of a token of the second text of a pair."""

MIN_TOKENS = 2
"""Tokens of a row: one alone predicts nothing."""


@dataclass(frozen=True)
class TokenRows:
    """Rows of a corpus.

    Attributes:
        corpus: Tokens of all documents.
        bounds: First token of each row, and at the end the number of tokens, (R + 1,).

    Example:
        >>> corpus = Corpus(np.arange(7), np.array([3, 7]))
        >>> [row.tolist() for row in pack(corpus, 4).row(0)]
        [[0, 1, 2, 3], [3, 2, 2, 1]]
    """

    corpus: Corpus
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def longest(self) -> int:
        """The number of tokens of the longest row."""
        return int(np.diff(self.bounds).max())

    def row(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the token ids and the marks of a row, (L,) each.

        Args:
            number: Row number from 0.
        """
        start, stop = int(self.bounds[number]), int(self.bounds[number + 1])
        marks = np.zeros(stop - start, np.uint8)
        ends = self.corpus.ends
        first, last = np.searchsorted(ends, (start, stop - 1), side="right")
        marks[0] = START
        marks[ends[first:last] - start] |= START
        marks[:-1] |= LABELLED
        if self.corpus.written is not None:
            # Only predictions of tokens of a response, and never across documents.
            follows = self.corpus.written[start + 1 : stop] & ((marks[1:] & START) == 0)
            marks[:-1][~follows] &= ~np.uint8(LABELLED)
        return self.corpus.ids[start:stop].astype(np.int64), marks


def by_document(corpus: Corpus, where: str) -> TokenRows:
    """Return one row per document.

    Args:
        corpus: Tokens of all documents.
        where: First words of messages, e.g. the path of the data.

    Raises:
        InvalidData: A document has fewer than two tokens, or no labelled position; names it.
    """
    lengths = np.diff(corpus.ends, prepend=0)
    short = np.flatnonzero(lengths < MIN_TOKENS)
    if len(short):
        row = int(short[0])
        raise InvalidData(
            f"{where}, row {row}: too short, got {int(lengths[row])} tokens; expected {MIN_TOKENS} at least, because "
            "one token predicts nothing. Remove the row, or pack documents with pack="
        )
    return TokenRows(corpus, np.concatenate([[0], corpus.ends]).astype(np.int64))


def pack(corpus: Corpus, length: int) -> TokenRows:
    """Return rows of ``length`` tokens, which documents fill one after the other.

    A document that crosses the end of a row continues in the next row as a document of its own. No token is lost, but
    for a last row of a single token, which would predict nothing.

    Args:
        corpus: Tokens of all documents.
        length: Tokens of each row but the last.

    Raises:
        InvalidArgument: The length is below 2.
        InvalidData: There are fewer than two tokens in all.
    """
    if length < MIN_TOKENS:
        raise InvalidArgument(f"pack: too short, got {length} tokens a row; expected {MIN_TOKENS} at least")
    total = len(corpus.ids)
    if total < MIN_TOKENS:
        raise InvalidData(f"corpus: too short, got {total} tokens in all; expected {MIN_TOKENS} at least")
    bounds = np.arange(0, total, length, dtype=np.int64)
    if total - bounds[-1] >= MIN_TOKENS:
        bounds = np.append(bounds, total)
    return TokenRows(corpus, bounds)


def pack_groups(
    corpus: Corpus, length: int, groups: NDArray[np.integer[Any]]
) -> tuple[TokenRows, NDArray[np.integer[Any]]]:
    """Return rows that hold documents of one group each, such as a split, and the group of each row, (R,).

    Args:
        corpus: Tokens of all documents.
        length: Tokens of each row but the last of a group.
        groups: Number of the group of each document, (D,).

    Raises:
        InvalidArgument: The length is below 2.
        InvalidData: A group has fewer than two tokens in all.

    Example:
        >>> corpus = Corpus(np.arange(9), np.array([3, 5, 9]))
        >>> rows, groups = pack_groups(corpus, 4, np.array([0, 1, 0]))
        >>> [rows.row(row)[0].tolist() for row in range(3)], groups.tolist()
        ([[0, 1, 2, 5], [6, 7, 8], [3, 4]], [0, 0, 1])
    """
    lengths = np.diff(corpus.ends, prepend=0)
    starts = corpus.ends - lengths
    packed, numbers = [], []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        entries = ranges(starts[members], lengths[members])
        written = None if corpus.written is None else corpus.written[entries]
        packed.append(pack(Corpus(corpus.ids[entries], np.cumsum(lengths[members]), written), length))
        numbers.append(np.full(len(packed[-1]), group))
    sizes = [int(rows.bounds[-1]) for rows in packed]
    first = np.cumsum([0, *sizes])
    corpora = [rows.corpus for rows in packed]
    masks = [corpus.written[:size] for corpus, size in zip(corpora, sizes, strict=True) if corpus.written is not None]
    joined = Corpus(
        np.concatenate([corpus.ids[:size] for corpus, size in zip(corpora, sizes, strict=True)]),
        # A last token that fills no row of its own is not in any row, so its document ends before it.
        np.unique(np.concatenate([np.minimum(corpus.ends, size) + start
                                  for corpus, size, start in zip(corpora, sizes, first[:-1], strict=True)])),
        np.concatenate(masks) if masks else None,
    )  # fmt: skip
    bounds = np.concatenate([[0], *[rows.bounds[1:] + start for rows, start in zip(packed, first[:-1], strict=True)]])
    return TokenRows(joined, bounds.astype(np.int64)), np.concatenate(numbers)


def next_tokens(
    ids: NDArray[Any], lengths: NDArray[np.int64], marks: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return what the labelled positions of rows predict: the next token, (P,), and whether it counts, (P,).

    A prediction counts unless the next token begins another document or lies beyond the row.

    Args:
        ids: Token ids of all rows one after the other, (N,).
        lengths: Tokens of each row, (B,).
        marks: Marks of each token, (N,).
    """
    positions = np.flatnonzero(marks & LABELLED)
    last = np.zeros(len(ids), np.bool_)
    last[np.cumsum(lengths) - 1] = True
    following = np.minimum(positions + 1, len(ids) - 1)
    counts = ~last[positions] & ((marks[following] & START) == 0)
    return ids[following].astype(np.int64), counts
