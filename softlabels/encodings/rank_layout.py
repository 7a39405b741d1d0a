"""Layout of ranks under a codeword: near ones as gaps of one byte, far ones as a gap of blocks of 256 and an offset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import Arrays

NEAR = 256
"""Ranks below this are near; those above are in blocks of so many."""
WIDE_CLASSES = NEAR + 256 * NEAR
"""Number of classes above which a block's gap does not fit one byte."""


def ranked(
    row: NDArray[np.int64], ranks: NDArray[np.int64], counts: NDArray[np.int64], *, rows: int
) -> dict[str, NDArray[np.int64]]:
    """Return the columns of entries in the order of rows and, within a row, of ranks."""
    is_near = ranks < NEAR
    blocks, offsets = np.divmod(ranks[~is_near] - NEAR, NEAR)
    return {
        "near": np.bincount(row[is_near], minlength=rows),
        "near_gaps": _gaps(ranks[is_near], row[is_near], before=-1) - 1,
        "near_draws": counts[is_near] - 1,
        "far": np.bincount(row[~is_near], minlength=rows),
        "far_blocks": _gaps(blocks, row[~is_near], before=0),
        "far_offsets": offsets,
        "far_draws": counts[~is_near] - 1,
    }


def _gaps(values: NDArray[np.int64], row: NDArray[np.int64], *, before: int) -> NDArray[np.int64]:
    """Return the differences of values to those before them in their row; the first of a row to ``before``."""
    gaps = np.diff(values, prepend=before)
    is_first = np.diff(row, prepend=-1) != 0
    gaps[is_first] = values[is_first] - before
    return gaps


def _cumulated(gaps: NDArray[np.integer], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sums of gaps from the first of each row on: the inverse of ``_gaps`` with ``before`` 0."""
    sums = np.cumsum(gaps, dtype=np.int64)
    ends = np.cumsum(counts)
    at_start = np.concatenate([[0], sums])[ends - counts]
    return np.asarray(sums - np.repeat(at_start, counts))


def near_ranks(arrays: Arrays) -> NDArray[np.int64]:
    """Return the ranks of the near entries, (n,)."""
    return np.asarray(_cumulated(arrays["near_gaps"] + np.uint16(1), arrays["near"].astype(np.int64)) - 1)


def far_ranks(arrays: Arrays) -> NDArray[np.int64]:
    """Return the ranks of the far entries, (n,)."""
    blocks = _cumulated(arrays["far_blocks"], arrays["far"].astype(np.int64))
    ranks: NDArray[np.int64] = NEAR * (1 + blocks) + arrays["far_offsets"]
    return ranks
