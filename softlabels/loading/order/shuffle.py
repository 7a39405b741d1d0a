"""The order of examples: a function of (seed, epoch, position), equal on every machine.

Examples come in chunks, which are read and decoded together. An epoch permutes the chunks and groups them into windows
of ``window`` chunks; the examples of a window are shuffled among themselves. Memory and disk see whole chunks, and a
student sees examples from many of them. Permutations are sorts of raw Philox words, which NumPy guarantees never to
change (its ``Generator.permutation`` may). Nothing depends on workers, on ranks, or on where reading starts.

A window of 262,144 examples costs one sort of as many 64-bit words, on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.loading.buffer_pool import BufferPool
from softlabels.rng import BATCH_STREAM, CHUNK_STREAM, ITEM_STREAM, philox_words


@dataclass(frozen=True)
class Window:
    """A run of positions whose examples are read together.

    Attributes:
        epoch: Epoch of the window.
        number: Number of the window within the epoch.
        start: First position, within the epoch.
        size: Number of positions.
        chunks: Chunk numbers in the order in which they are read.
    """

    epoch: int
    number: int
    start: int
    size: int
    chunks: NDArray[np.int64]


class Order:
    """The order of examples in every epoch.

    Args:
        chunk_items: Number of examples of each chunk; examples are numbered through the chunks. A chunk without
            examples is not read.
        seed: Seed of the order, any integer.
        shuffle: If False, every epoch is 0, 1, 2, ...
        window: Number of chunks shuffled together.
        pool: Pool of the memory for what ``arrange`` returns.

    Example:
        >>> order = Order([4, 4, 4], seed=1, window=2)
        >>> order.epoch(0).tolist()
        [11, 2, 1, 3, 0, 9, 10, 8, 7, 5, 6, 4]
    """

    def __init__(
        self,
        chunk_items: Any,
        *,
        seed: int,
        shuffle: bool = True,
        window: int = 64,
        pool: BufferPool | None = None,
    ) -> None:
        self._counts: NDArray[np.int64] = np.asarray(chunk_items, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        self._seed = seed
        self._shuffle = shuffle
        self._window = window
        self._pool = BufferPool() if pool is None else pool

    def __len__(self) -> int:
        """Return the number of examples in an epoch."""
        return int(self._starts[-1])

    def windows(self, epoch: int, start: int = 0) -> Iterator[Window]:
        """Yield the windows of an epoch that hold positions from ``start`` on.

        Args:
            epoch: Epoch, from 0.
            start: First position to include; earlier windows are skipped.
        """
        used = np.flatnonzero(self._counts)
        chunks = used[permutation(len(used), self._seed, epoch, CHUNK_STREAM)] if self._shuffle else used
        ends = np.cumsum(self._counts[chunks])
        for number, first in enumerate(range(0, len(chunks), self._window)):
            members = chunks[first : first + self._window]
            begin, end = int(ends[first - 1]) if first else 0, int(ends[first + len(members) - 1])
            if end > start:
                yield Window(epoch, number, begin, end - begin, members)

    def arrange(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the examples of a window in order, and for each the index of its chunk in ``window.chunks``."""
        counts = self._counts[window.chunks]
        places = np.repeat(np.arange(len(counts)), counts)
        items = np.arange(window.size)
        if self._shuffle:
            items = permutation(window.size, self._seed, window.epoch, ITEM_STREAM, window.number, self._pool)
            places = self._take("places", places, items)
        # From the number within the window to the number within all chunks.
        items += self._take("shifts", self._starts[window.chunks] - np.cumsum(counts) + counts, places)
        return items, places

    def _take(self, name: str, array: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.int64]:
        # take needs a third of the time of an index in brackets.
        out: NDArray[np.int64] = self._pool.empty(name, index.shape, array.dtype)
        np.take(array, index, out=out, mode="clip")
        return out

    def epoch(self, epoch: int, start: int = 0) -> NDArray[np.int64]:
        """Return the examples of an epoch from position ``start`` on, for small data."""
        runs = [self.arrange(window)[0][max(start - window.start, 0) :] for window in self.windows(epoch, start)]
        return np.concatenate(runs) if runs else np.empty(0, np.int64)


def by_length(window: Window, lengths: NDArray[np.integer], batch_size: int, seed: int) -> NDArray[np.int64]:
    """Return an order of a window's positions in which every full batch holds rows of similar length, (size,).

    Rows are sorted by length; equal ones stay in their shuffled order. They are cut where batches begin, and full
    batches are permuted. Rows before the first batch that begins in the window come first. Rows of the last batch,
    which ends in the next window, come last.

    Args:
        window: Window to order.
        lengths: Length of each row in the order that ``arrange`` returned, (size,).
        batch_size: Rows of a batch; batches begin at multiples of it.
        seed: Seed of the order.
    """
    ordered = np.argsort(lengths, kind="stable")
    head = min(-window.start % batch_size, window.size)
    count = (window.size - head) // batch_size
    batches = ordered[head : head + count * batch_size].reshape(count, batch_size)
    shuffled = batches[permutation(count, seed, window.epoch, BATCH_STREAM, window.number)]
    return np.concatenate([ordered[:head], shuffled.reshape(-1), ordered[head + count * batch_size :]])


def permutation(
    count: int, seed: int, epoch: int, stream: int, number: int = 0, pool: BufferPool | None = None
) -> NDArray[np.int64]:
    """Return the stable sort order of ``count`` random words, a function of (seed, epoch, stream, number) alone.

    Each word is sorted as one integer: its upper bits, then its position in place of the lower bits. That takes half
    the time of a sort that carries positions along (``benchmarks/buffers.py``). The few neighbours whose upper bits are
    equal are then ordered by their full words.
    """
    pool = BufferPool() if pool is None else pool
    words = philox_words(count, seed, epoch, stream, number)
    bits = max(count - 1, 0).bit_length()
    low = np.uint64((1 << bits) - 1)
    packed = np.bitwise_and(words, ~low, out=pool.empty("packed", (count,), words.dtype))
    packed |= np.arange(count, dtype=np.uint64)
    packed.sort()
    order: NDArray[np.int64] = pool.empty("order", (count,), np.int64)
    np.bitwise_and(packed, low, out=order.view(np.uint64))
    packed >>= np.uint64(bits)
    equal = np.flatnonzero(packed[1:] == packed[:-1])
    if len(equal):
        index = np.union1d(equal, equal + 1)
        order[index] = order[index][np.argsort(words[order[index]], kind="stable")]
    return order
