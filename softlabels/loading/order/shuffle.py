"""The order of items: a function of (seed, epoch, position), the same on every machine.

Items come in chunks, which are read and decoded together. In an epoch the chunks are permuted, then grouped into
windows of ``window`` chunks, and the items of a window are shuffled among themselves: memory and disk see whole chunks,
the student sees items from all over. Permutations are sorts of raw Philox words, which NumPy guarantees never to change
(its ``Generator.permutation`` may); nothing depends on workers, ranks or where one starts.

A window of 262,144 items costs one sort of as many 64-bit words; it is arranged off the consumer's thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabels.loading.buffer_pool import BufferPool
from softlabels.rng import BATCH_STREAM, CHUNK_STREAM, ITEM_STREAM, philox_words


@dataclass(frozen=True)
class Window:
    """A run of positions that is read together.

    Attributes:
        epoch: it belongs to.
        number: within the epoch.
        start: its first position in the epoch.
        size: positions in it.
        chunks: chunk numbers, in the order they are read.
    """

    epoch: int
    number: int
    start: int
    size: int
    chunks: NDArray[np.int64]


class Order:
    """The order of items in every epoch.

    Args:
        chunk_items: items of each chunk; items are numbered through the chunks. Chunks without items are not read.
        seed: any whole number.
        shuffle: whether to; otherwise every epoch is 0, 1, 2, ...
        window: chunks shuffled together.
        memory: for what ``arrange`` gives.
    """

    def __init__(
        self,
        chunk_items: NDArray[np.int64],
        *,
        seed: int,
        shuffle: bool = True,
        window: int = 64,
        memory: BufferPool | None = None,
    ) -> None:
        self._counts = np.asarray(chunk_items, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        self._seed = seed
        self._shuffle = shuffle
        self._window = window
        self._memory = BufferPool() if memory is None else memory

    def __len__(self) -> int:
        """Items in an epoch."""
        return int(self._starts[-1])

    def windows(self, epoch: int, start: int = 0) -> Iterator[Window]:
        """The windows of an epoch that hold positions from ``start`` on, in order.

        Args:
            epoch: 0 and up.
            start: the first position that matters; earlier windows are skipped.
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
        """The items of a window in their order, and for each the place of its chunk in ``window.chunks``; (size,)."""
        counts = self._counts[window.chunks]
        places = np.repeat(np.arange(len(counts)), counts)
        items = np.arange(window.size)
        if self._shuffle:
            items = permutation(window.size, self._seed, window.epoch, ITEM_STREAM, window.number, self._memory)
            places = self._taken("places", places, items)
        items += self._taken("shifts", self._starts[window.chunks] - np.cumsum(counts) + counts, places)
        return items, places

    def _taken(self, name: str, array: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.int64]:
        # take, not an index in brackets: a third of the time
        taken: NDArray[np.int64] = self._memory.empty(name, at.shape, array.dtype)
        np.take(array, at, out=taken, mode="clip")
        return taken

    def epoch(self, epoch: int, start: int = 0) -> NDArray[np.int64]:
        """Item numbers of a whole epoch from position ``start`` on; for small data and for tests."""
        pieces = [self.arrange(window)[0][max(start - window.start, 0) :] for window in self.windows(epoch, start)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def by_length(window: Window, lengths: NDArray[np.integer], batch: int, seed: int) -> NDArray[np.int64]:
    """A new order of a window's positions in which every whole batch holds rows of about one length, (size,).

    Rows are sorted by length (equal ones stay in their shuffled order) and cut where batches begin; whole batches are
    then permuted among themselves. Rows before the first batch that begins in the window come first, and those of the
    last one, which ends in the next window, last.

    Args:
        window: the window.
        lengths: (size,) in the order that ``arrange`` gave.
        batch: rows of a batch; batches begin at multiples of it.
        seed: of the order.
    """
    ordered = np.argsort(lengths, kind="stable")
    head = min(-window.start % batch, window.size)
    whole = (window.size - head) // batch
    middle = ordered[head : head + whole * batch].reshape(whole, batch)
    shuffled = middle[permutation(whole, seed, window.epoch, BATCH_STREAM, window.number)]
    return np.concatenate([ordered[:head], shuffled.reshape(-1), ordered[head + whole * batch :]])


def permutation(
    count: int, seed: int, epoch: int, stream: int, number: int = 0, memory: BufferPool | None = None
) -> NDArray[np.int64]:
    """The stable sort order of ``count`` random words: depends on (seed, epoch, stream, number) alone.

    Sorts one number a word, its upper bits before its position: half the time of a sort that carries positions along.
    The few neighbours whose upper bits agree are then put right.
    """
    memory = BufferPool() if memory is None else memory
    drawn = philox_words(count, seed, epoch, stream, number)
    bits = max(count - 1, 0).bit_length()
    places = np.uint64((1 << bits) - 1)
    ranked = np.bitwise_and(drawn, ~places, out=memory.empty("ranked", (count,), drawn.dtype))
    ranked |= np.arange(count, dtype=np.uint64)
    ranked.sort()
    order: NDArray[np.int64] = memory.empty("order", (count,), np.dtype(np.int64))
    np.bitwise_and(ranked, places, out=order.view(np.uint64))
    ranked >>= np.uint64(bits)
    alike = np.flatnonzero(ranked[1:] == ranked[:-1])
    if len(alike):
        at = np.union1d(alike, alike + 1)
        order[at] = order[at][np.argsort(drawn[order[at]], kind="stable")]
    return order
