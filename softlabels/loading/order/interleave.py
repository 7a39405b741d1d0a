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
"""Positions that are dealt to the parts of a mixture at a time."""
CACHED_BLOCKS = 16


@dataclass(frozen=True)
class Interleave:
    """The part of a mixture that each position of an endless stream is taken from.

    Attributes:
        quotas: Positions of each part in a block; they sum to BLOCK.
        seed: Seed of the positions within a block.

    Example:
        >>> interleave = Interleave(quotas_of([3, 1]), seed=0)
        >>> interleave.before(4096).tolist()
        [3072, 1024]
    """

    quotas: tuple[int, ...]
    seed: int

    def parts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the part of each position from start to stop, (stop - start,)."""
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        dealt = [_block(self.quotas, self.seed, block) for block in blocks] or [np.empty(0, np.int64)]
        return np.concatenate(dealt)[start - blocks.start * BLOCK :][: stop - start]

    def before(self, position: int) -> NDArray[np.int64]:
        """Return the number of positions of each part before ``position``, (parts,)."""
        block, within = divmod(position, BLOCK)
        counts: NDArray[np.int64] = np.array(self.quotas) * block
        if within:
            dealt = _block(self.quotas, self.seed, block)[:within]
            counts = counts + np.bincount(dealt, minlength=len(self.quotas))
        return counts


@lru_cache(CACHED_BLOCKS)
def _block(quotas: tuple[int, ...], seed: int, block: int) -> NDArray[np.int64]:
    numbers = np.repeat(np.arange(len(quotas)), quotas)
    dealt: NDArray[np.int64] = numbers[permutation(BLOCK, seed, block, PART_STREAM)]
    dealt.flags.writeable = False
    return dealt


def quotas_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the positions of each part in a block: proportional to its weight, by largest remainders.

    Raises:
        InvalidArgument: A weight too small for one position in a block.
    """
    shares = np.array(weights, np.float64) * (BLOCK / math.fsum(weights))
    quotas = np.floor(shares).astype(np.int64)
    quotas[np.argsort(quotas - shares, kind="stable")[: BLOCK - int(quotas.sum())]] += 1
    if (quotas == 0).any():
        number = int(quotas.argmin())
        raise InvalidArgument(
            f"weights: part {number} gets less than a row in {BLOCK:,}, got {weights[number]} of "
            f"{math.fsum(weights)}; expected at least {math.fsum(weights) / BLOCK:g}. Use a larger weight"
        )
    return tuple(quotas.tolist())
