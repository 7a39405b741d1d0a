"""Interleaving of several datasets by weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.loading.order.shuffle import permutation
from softlabels.rng import PART_STREAM

BLOCK = 4096
"""Rows that are dealt to the parts at a time."""


BLOCKS_KEPT = 16


@dataclass(frozen=True)
class Interleave:
    """Which part each position of an endless stream belongs to.

    Attributes:
        quotas: rows of each part in a block, BLOCK in all.
        seed: of the places in a block.
    """

    quotas: tuple[int, ...]
    seed: int

    def parts(self, start: int, stop: int) -> NDArray[np.int64]:
        """The part of each position from start to stop, (stop - start,)."""
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        dealt = [_block(self.quotas, self.seed, block) for block in blocks] or [np.empty(0, np.int64)]
        return np.concatenate(dealt)[start - blocks.start * BLOCK :][: stop - start]

    def before(self, position: int) -> NDArray[np.int64]:
        """Rows of each part before a position."""
        block, within = divmod(position, BLOCK)
        counts: NDArray[np.int64] = np.array(self.quotas) * block
        if within:
            counts = counts + np.bincount(_block(self.quotas, self.seed, block)[:within], minlength=len(self.quotas))
        return counts


@lru_cache(BLOCKS_KEPT)
def _block(quotas: tuple[int, ...], seed: int, block: int) -> NDArray[np.int64]:
    parts = np.repeat(np.arange(len(quotas)), quotas)
    dealt: NDArray[np.int64] = parts[permutation(BLOCK, seed, block, PART_STREAM)]
    dealt.flags.writeable = False
    return dealt


def quotas_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Whole rows of a block by weight, BLOCK in all: rounded down, and the largest remainders up.

    Raises:
        InvalidArgument: a weight too small to have a row.
    """
    shares = np.array(weights, np.float64) * (BLOCK / math.fsum(weights))
    quotas = np.floor(shares).astype(np.int64)
    quotas[np.argsort(quotas - shares, kind="stable")[: BLOCK - int(quotas.sum())]] += 1
    if (quotas == 0).any():
        number = int(quotas.argmin())
        raise InvalidArgument(
            f"part {number} of the mixture has a weight of {weights[number]} in {math.fsum(weights)}, which is less "
            f"than a row in {BLOCK:,}; give it more"
        )
    return tuple(quotas.tolist())
