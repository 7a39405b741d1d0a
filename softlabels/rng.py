"""Random numbers as a function of their purpose: equal on every machine, engine, batch size and resume.

Two generators share this module, because stored stores and documented orders depend on both staying as they are.
SplitMix64 (Steele, Lea and Flood 2014) hashes (seed, stream, row, position) to one 64-bit word per item; every number
drawn for the item is a hash of that word and a counter. Philox fills long arrays for permutations, from
(seed, epoch, stream, number); NumPy guarantees that its raw words never change.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# SplitMix64; constants of this type, because making them takes longer than the arithmetic of a batch.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = tuple(map(np.uint64, (30, 27, 31)))
_FACTORS = tuple(map(np.uint64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))

# Streams keep draws for unlike purposes independent. A number in use is never given another meaning.
UNIT_STREAM, ROW_STREAM, MEASURE_STREAM, POSITION_STREAM = 0, 1, 2, 3
"""SplitMix streams: units that sum unlisted mass, rows of the probe, rows measured, the position of a ragged row."""
DRAW_STREAM, DITHER_STREAM, AUGMENT_STREAM, ROAD_STREAM, TRAINING_STREAM = 16, 17, 32, 33, 48
"""SplitMix streams: draws of the encodings, first counters of rows, parameters of augmented views, road scenes, dropout
of a training step."""
COUNTER_BLOCK = 256
"""Rows whose counters follow each other."""
LINE_STEP = 83
"""Difference between the counters of a position and of the one below it."""
CHUNK_STREAM, ITEM_STREAM, BATCH_STREAM, VIEW_STREAM, PART_STREAM = range(5)
"""Philox streams: order of chunks, of items in a window, of batches by length; views; parts of a mixture."""


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one step of SplitMix64: a bijection of 64-bit words whose outputs look random.

    Args:
        x: Words in an array of at least one axis; NumPy warns of the overflow of scalars.
    """
    x = x + _STEP
    x = (x ^ (x >> _SHIFTS[0])) * _FACTORS[0]
    x = (x ^ (x >> _SHIFTS[1])) * _FACTORS[1]
    return x ^ (x >> _SHIFTS[2])


@lru_cache(maxsize=64)
def _start(seed: int, stream: int) -> NDArray[np.uint64]:
    """Return the word of a stream, (1,)."""
    return mix(mix(np.array([seed % 2**64], np.uint64)) ^ np.uint64(stream))


def words(
    seed: int, rows: NDArray[np.integer], positions: NDArray[np.integer] | None = None, *, stream: int = 0
) -> NDArray[np.uint64]:
    """Return the SplitMix word of each item, (n,) uint64.

    Args:
        seed: Seed of the store; taken modulo 2^64.
        rows: Row numbers, (n,).
        positions: Positions within ragged rows, (n,); None for one item per row.
        stream: One of the SplitMix streams above.

    Example:
        >>> import numpy as np
        >>> int(words(0, np.arange(2))[0] != words(0, np.arange(2))[1])
        1
    """
    row_words = mix(_start(seed, stream) ^ rows.astype(np.uint64))
    return row_words if positions is None else at_positions(row_words, positions)


def at_positions(row_words: NDArray[np.uint64], positions: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return the words of positions of rows, from the words of the rows; the arguments broadcast."""
    return mix(row_words ^ positions.astype(np.uint64))


def counters(
    seed: int, rows: NDArray[np.integer], positions: NDArray[np.integer] | None = None, *, stream: int = DITHER_STREAM
) -> NDArray[np.uint32]:
    """Return the counter of each item, (n,) uint32: those of neighbours follow each other, modulo 2^32.

    Counters start anew at a hash every 256 rows, and in each ragged row at its first position. So items of one kind
    that stand at regular distances, such as every second row, take other counters in each block.

    Args:
        seed: Seed of the store; taken modulo 2^64.
        rows: Row numbers, (n,).
        positions: Positions within ragged rows, (n,); None for one item per row.
        stream: One of the SplitMix streams above.

    Example:
        >>> import numpy as np
        >>> np.diff(counters(0, np.arange(3))).tolist()
        [1, 1]
    """
    starts, numbers = np.divmod(rows, COUNTER_BLOCK) if positions is None else (rows, positions)
    return (words(seed, starts, stream=stream) + numbers.astype(np.uint64)).astype(np.uint32)


def position_counters(row_counters: NDArray[np.uint32], shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """Return the counters of the positions of rows, (n * positions,) uint32; each row starts at a hash of its counter.

    A line starts LINE_STEP after the line above, so that neighbours in all directions have unlike offsets.

    Args:
        row_counters: (n,) uint32, counters of the rows.
        shape: Positions of a row, such as (H, W).

    Example:
        >>> import numpy as np
        >>> np.diff(position_counters(np.arange(1, dtype=np.uint32), (2, 3)).astype(int)).tolist()
        [1, 1, 81, 1, 1]
    """
    lines, columns = np.divmod(np.arange(math.prod(shape), dtype=np.uint64), np.uint64(shape[-1]))
    starts = mix(row_counters.astype(np.uint64))[:, None]
    return (starts + lines * np.uint64(LINE_STEP) + columns).astype(np.uint32).reshape(-1)


def uniforms(item_words: NDArray[np.uint64], counters: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) of 53 bits, one per pair of word and counter; the arguments broadcast."""
    bits = mix(item_words ^ mix(counters.astype(np.uint64)))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def philox_words(count: int, seed: int, epoch: int, stream: int, number: int = 0) -> NDArray[np.uint64]:
    """Return Philox words, (count,) uint64.

    Args:
        count: Number of words.
        seed: Seed of the order; taken modulo 2^64.
        epoch: Epoch, from 0.
        stream: One of the Philox streams above.
        number: Index of the window, or of another part of the epoch.
    """
    return np.random.Philox(np.random.SeedSequence((seed % 2**64, epoch, stream, number))).random_raw(count)
