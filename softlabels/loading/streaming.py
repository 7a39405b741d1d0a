"""The loader: batches of soft labels, joined to their inputs, in an order that only the seed decides.

A window of chunks is read, verified and decoded by a thread while the batches of the one before are handed out; memory
is two windows. Every step of every epoch can be reached directly, so resuming costs one window.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import Column
from softlabels.encodings import rows as ragged
from softlabels.errors import InvalidArgument, LabelsMisaligned
from softlabels.labels import SoftLabels
from softlabels.loading.joining import Join, join
from softlabels.loading.order import Order, Window
from softlabels.sources import Source, content_keys
from softlabels.store import Store

PLAIN_CHUNK = 4096
"""Items of a chunk where there is no store whose chunks would say."""


@dataclass(frozen=True)
class Batch:
    """What a student sees in one step.

    Attributes:
        epoch: 0 and up.
        step: over all epochs, 0 and up.
        rows: (B,) rows of the data; of the store, where the loader has no data.
        inputs: (B, *input_shape); None without data.
        hard: (B,) hard labels, -1 where a row has none; None without a label column.
        targets: soft labels by head; empty without a store.
    """

    epoch: int
    step: int
    rows: NDArray[np.int64]
    inputs: NDArray[np.generic] | None = None
    hard: NDArray[np.int64] | None = None
    targets: dict[str, SoftLabels] = field(default_factory=dict)


class Loader:
    """Batches from a store, from data, or from both joined by key.

    Args:
        store: where the soft labels are; None: hard labels only.
        inputs: the user's data; None: labels alone.
        batch_size: rows a step; the last of an epoch may have fewer.
        seed: of the order.
        shuffle: whether to.
        window: chunks shuffled together; chunks are about 1 MiB.
        rows: rows of the data (of the store, without data) to use; None: all.
        check: re-hash inputs as they pass: the first row of each batch (``sample``), ``all``, or ``off``.

    Raises:
        InvalidArgument: neither store nor data, or sizes that cannot be meant.
        KeyMissing: data without labels.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        inputs: Source | None = None,
        batch_size: int = 256,
        seed: int = 0,
        shuffle: bool = True,
        window: int = 64,
        rows: NDArray[np.int64] | None = None,
        check: str = "sample",
    ) -> None:
        if batch_size < 1 or window < 1:
            raise InvalidArgument(f"batch_size and window must be above 0, not {batch_size} and {window}")
        if check not in {"sample", "all", "off"}:
            raise InvalidArgument(f"check is sample, all or off, not {check!r}")
        self.store = store
        self.inputs = inputs
        self.batch_size = batch_size
        self.pairs = self._join(rows)
        self._columns = [] if store is None else [c for head in store.heads for c in store.head_columns(head)]
        self._schema = {} if store is None else store.descriptor.columns()
        self._check = check if inputs is not None and inputs.columns.id is None and store is not None else "off"
        if len(self.pairs.store_rows) == 0:
            raise InvalidArgument("there are no rows to load")
        ends = self._chunk_ends()
        chunk_of = np.searchsorted(ends, self.pairs.store_rows, side="right")
        self._chunk_starts = np.concatenate([[0], ends])
        self.order = Order(np.bincount(chunk_of, minlength=len(ends)), seed=seed, shuffle=shuffle, window=window)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return math.ceil(len(self.order) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch, the first."""
        return self.epoch(0)

    def stream(self, start_step: int = 0) -> Generator[Batch]:
        """Endless batches from ``start_step`` on, epoch after epoch."""
        epoch, index = divmod(start_step, len(self))
        while True:
            yield from self.epoch(epoch, index)
            epoch, index = epoch + 1, 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from its ``start``-th on.

        Raises:
            StoreCorrupt: bytes in the store are not what was committed.
            LabelsMisaligned: an input is not the one its labels were made from.
        """
        position = start * self.batch_size
        step = epoch * len(self) + start
        waiting: list[_Piece] = []
        have = 0
        for piece in self._pieces(epoch, position):
            waiting.append(piece)
            have += len(piece.items)
            while have >= self.batch_size:
                batch, waiting = _take(waiting, self.batch_size, self._schema)
                have -= self.batch_size
                yield self._batch(epoch, step, batch)
                step += 1
        if have:
            yield self._batch(epoch, step, _take(waiting, have, self._schema)[0])

    def _join(self, rows: NDArray[np.int64] | None) -> Join:
        if self.inputs is None:
            if self.store is None:
                raise InvalidArgument("a loader needs a store, data, or both")
            rows = np.arange(self.store.rows, dtype=np.int64) if rows is None else np.sort(rows)
            return Join(rows, rows)
        rows = np.arange(len(self.inputs), dtype=np.int64) if rows is None else np.sort(rows)
        return Join(rows, rows) if self.store is None else join(self.store, self.inputs, rows)

    def _chunk_ends(self) -> NDArray[np.int64]:
        """Where each chunk ends, in rows."""
        if self.store is not None:
            return np.cumsum(self.store.chunk_rows())
        count = len(self.inputs) if self.inputs is not None else 0
        ends = np.arange(PLAIN_CHUNK, count + PLAIN_CHUNK, PLAIN_CHUNK, dtype=np.int64)
        return np.minimum(ends, count)

    def _pieces(self, epoch: int, position: int) -> Iterator[_Piece]:
        """Decoded windows from ``position`` on, each read while the one before is in use."""
        with ThreadPoolExecutor(1, thread_name_prefix="softlabels-loader") as pool:
            ahead = None
            for window in self.order.windows(epoch, position):
                coming = pool.submit(self._read_window, window, max(position - window.start, 0))
                if ahead is not None:
                    yield ahead.result()
                ahead = coming
            if ahead is not None:
                yield ahead.result()

    def _read_window(self, window: Window, skip: int) -> _Piece:
        items = window.items[skip:]
        if self.store is None:
            return _Piece(items, {})
        rows = self.pairs.store_rows[items]
        names = [*self._columns, "key"] if self._check != "off" else self._columns
        read = [self.store.read_chunk(int(chunk), names) for chunk in window.chunks]
        # Where each chunk's rows begin among those that were read, by chunk.
        sizes = self._chunk_starts[window.chunks + 1] - self._chunk_starts[window.chunks]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        by_number = np.argsort(window.chunks)
        chunk_of = np.searchsorted(self._chunk_starts, rows, side="right") - 1
        place = by_number[np.searchsorted(window.chunks[by_number], chunk_of)]
        where = offsets[place] + rows - self._chunk_starts[chunk_of]
        return _Piece(items, ragged.take(ragged.join(read), self._schema, where))

    def _batch(self, epoch: int, step: int, piece: _Piece) -> Batch:
        targets: dict[str, SoftLabels] = {}
        if self.store is not None:
            targets = {head: self.store.decode(piece.columns, head) for head in self.store.heads}
        if self.inputs is None:
            return Batch(epoch, step, self.pairs.store_rows[piece.items], targets=targets)
        source_rows = self.pairs.source_rows[piece.items]
        inputs = self.inputs.inputs(source_rows)
        self._check_alignment(inputs, source_rows, piece)
        return Batch(epoch, step, source_rows, inputs, self.inputs.labels(source_rows), targets)

    def _check_alignment(self, inputs: NDArray[np.generic], source_rows: NDArray[np.int64], piece: _Piece) -> None:
        if self._check == "off":
            return
        count = 1 if self._check == "sample" else len(inputs)
        wrong = (content_keys(inputs[:count]) != piece.columns["key"][:count]).any(axis=1)
        if wrong.any():
            row = int(source_rows[int(wrong.argmax())])
            raise LabelsMisaligned(
                f"row {row} of the data is not the input its labels were made from; has the data changed since it was "
                "opened? Open it again, or generate labels for it"
            )


@dataclass(frozen=True)
class _Piece:
    """Items in their order with the columns read for them."""

    items: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]


def _take(pieces: list[_Piece], count: int, schema: Mapping[str, Column]) -> tuple[_Piece, list[_Piece]]:
    """The first ``count`` items of ``pieces`` as one piece, and what is left."""
    taken, left = [], []
    for piece in pieces:
        size = len(piece.items)
        here = min(count, size)
        if here:
            taken.append(_Piece(piece.items[:here], ragged.cut(piece.columns, schema, 0, here)))
        if here < size:
            left.append(_Piece(piece.items[here:], ragged.cut(piece.columns, schema, here, size)))
        count -= here
    joined = ragged.join([piece.columns for piece in taken])
    return _Piece(np.concatenate([piece.items for piece in taken]), joined), left


def loader(store: Store | None, *, inputs: Source | None = None, **options: Any) -> Loader:
    """A Loader; the verb of the design."""
    return Loader(store, inputs=inputs, **options)
