"""Random numbers that are a function of what they are for: the same on any machine, engine, batch size and resume.

Every item (a row, or a position of a ragged row) has one 64-bit word, a hash of (seed, row, position); whatever is
drawn for the item is a hash of that word and a counter (SplitMix64: Steele, Lea and Flood 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64: a bijection of 64-bit words whose outputs look random."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def words(
    seed: int, rows: NDArray[np.integer], positions: NDArray[np.integer] | None = None, *, stream: int = 0
) -> NDArray[np.uint64]:
    """The word of each item, (n,) uint64.

    Args:
        seed: of the store.
        rows: (n,) row numbers.
        positions: (n,) positions within ragged rows; None: one item a row.
        stream: tells apart what is drawn for unlike purposes.
    """
    start = mix(mix(np.array([seed % 2**64], np.uint64)) ^ np.uint64(stream))
    found = mix(start ^ rows.astype(np.uint64))
    return found if positions is None else mix(found ^ positions.astype(np.uint64))


def uniforms(of: NDArray[np.uint64], counters: NDArray[np.integer]) -> NDArray[np.float64]:
    """Numbers in [0, 1), 53 bits each, one for each pair of word and counter; the arguments broadcast."""
    bits = mix(of ^ mix(counters.astype(np.uint64)))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
