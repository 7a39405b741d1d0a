"""The order of items: a function of (seed, epoch, position), the same on every machine.

Items come in chunks, which are read and decoded together. In an epoch the chunks are permuted, then grouped into
windows of ``window`` chunks, and the items of a window are shuffled among themselves: memory and disk see whole chunks,
the student sees items from all over. Permutations are sorts of raw Philox words, which NumPy guarantees never to change
(its ``Generator.permutation`` may); nothing depends on workers, ranks or where one starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNKS, ITEMS = 0, 1
"""Streams of random words: for the order of chunks, and within windows."""


@dataclass(frozen=True)
class Window:
    """A run of positions that is read together.

    Attributes:
        start: its first position in the epoch.
        chunks: chunk numbers, in the order they are read.
        items: item numbers, in the order they are handed out.
    """

    start: int
    chunks: NDArray[np.int64]
    items: NDArray[np.int64]


class Order:
    """The order of items in every epoch.

    Args:
        chunk_items: items of each chunk; items are numbered through the chunks. Chunks without items are not read.
        seed: any whole number.
        shuffle: whether to; otherwise every epoch is 0, 1, 2, ...
        window: chunks shuffled together.
    """

    def __init__(self, chunk_items: NDArray[np.int64], *, seed: int, shuffle: bool = True, window: int = 64) -> None:
        self._counts = np.asarray(chunk_items, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        self._seed = seed % 2**64
        self._shuffle = shuffle
        self._window = window

    def __len__(self) -> int:
        """Items in an epoch."""
        return int(self._starts[-1])

    def windows(self, epoch: int, start: int = 0) -> Iterator[Window]:
        """The windows of an epoch that hold positions from ``start`` on, in order.

        Args:
            epoch: 0 and up.
            start: the first position that matters; earlier windows are skipped without being built.
        """
        used = np.flatnonzero(self._counts)
        chunks = used[self._permutation(len(used), epoch, CHUNKS, 0)] if self._shuffle else used
        ends = np.cumsum(self._counts[chunks])
        for number, first in enumerate(range(0, len(chunks), self._window)):
            last = min(first + self._window, len(chunks))
            if ends[last - 1] <= start:
                continue
            members = chunks[first:last]
            items = np.concatenate([np.arange(self._starts[c], self._starts[c + 1]) for c in members])
            if self._shuffle:
                items = items[self._permutation(len(items), epoch, ITEMS, number)]
            yield Window(int(ends[first - 1]) if first else 0, members, items)

    def epoch(self, epoch: int, start: int = 0) -> NDArray[np.int64]:
        """Item numbers of a whole epoch from position ``start`` on; for small data and for tests."""
        pieces = [window.items[max(start - window.start, 0) :] for window in self.windows(epoch, start)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def _permutation(self, count: int, epoch: int, stream: int, number: int) -> NDArray[np.int64]:
        """A permutation that depends on (seed, epoch, stream, number) alone."""
        words = np.random.Philox(np.random.SeedSequence((self._seed, epoch, stream, number))).random_raw(count)
        return np.argsort(words, kind="stable")
