"""Windows of chunks: read and decoded by threads while rows of the window before are copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from softlabels.errors import InvalidArgument
from softlabels.loading.chunks.cache import ChunkCache, ChunkLease
from softlabels.loading.chunks.rows import RowColumns
from softlabels.loading.order.epoch import EpochPlan, Pairs, Rows
from softlabels.loading.order.shuffle import Order, Window, by_length


def open_caches(plan: EpochPlan, *, windowed: bool = True) -> list[ChunkCache]:
    """Return a cache for each store of a plan. The memory is divided in proportion to the bytes of the stores.

    Args:
        plan: Plan of the epochs.
        windowed: Require memory for a window of plain columns. Ragged columns are counted when they are read.

    Raises:
        InvalidArgument: A window takes more memory than is granted.
    """
    total = sum(member.store.bytes for member in plan.members)
    window = min(plan.window, max(1, len(plan.chunk_starts) - 1)) if windowed else 1
    caches = [
        ChunkCache(member.store, member.names, plan.memory * member.store.bytes // total, min_chunks=window)
        for member in plan.members
    ]
    size = window * sum(cache.chunk_bytes for cache in caches)
    if windowed and size > plan.memory:
        raise InvalidArgument(
            f"memory: too small for a window of {window} chunks, which takes {size:,} bytes when decoded, got "
            f"{plan.memory:,} bytes. Use a larger memory= or window={max(1, plan.memory * window // size)}"
        )
    return caches


class OpenWindow:
    """A window whose chunks are pinned and being read.

    The order of its rows is computed on a thread too. Chunks of the first store are those of the window. Those of the
    other stores of an ensemble follow from its rows, so for them the order is awaited.

    Args:
        plan: Plan of the epoch.
        caches: Cache of each store.
        order: Order of the epoch.
        window: Window to open.
        pairs: Examples of the epoch.
        executor: Pool whose threads compute and read.

    Attributes:
        size: Rows in the window.
    """

    def __init__(
        self,
        plan: EpochPlan,
        caches: list[ChunkCache],
        order: Order,
        window: Window,
        pairs: Pairs,
        executor: Executor,
    ) -> None:
        self.size = window.size
        self._plan = plan
        self._caches = caches
        self._window = window
        self._pairs = pairs
        self._arranged = executor.submit(order.arrange, window)
        self._leases: list[ChunkLease] = []
        self._is_located = False
        for number, (member, cache) in enumerate(zip(plan.members, caches, strict=True)):
            chunks = window.chunks
            if number:
                chunks, _ = cache.chunks_of(member.rows_for(pairs.store_rows_of(self._arranged.result()[0])))
            self._leases.append(cache.lease(chunks, executor))
        self._pinned = self._leases.copy()

    def ready(self, *, elsewhere: bool = False) -> None:
        """Wait until rows can be copied.

        Args:
            elsewhere: If there is no room beside the chunks of other readers, use a second cache.

        Raises:
            StoreCorrupt: Bytes in a store are not what was committed.
            NoRoom: Ragged columns do not fit beside pinned chunks.
            InvalidArgument: The window takes more memory than is granted, even alone.
        """
        for lease in self._leases:
            lease.ready(elsewhere=elsewhere)
        if not self._is_located:
            self._locate()
            self._is_located = True

    def _locate(self) -> None:
        """Compute the rows in their order, and for each store the row and the index of its chunk in the lease."""
        items, places = self._arranged.result()
        if self._plan.lengths is not None:
            lengths = self._leases[0].column(self._plan.lengths, places, self._pairs.store_rows_of(items))
            order = by_length(self._window, lengths, self._plan.batch_size, self._plan.seed)
            items, places = items[order], places[order]
        self._store_rows = self._pairs.store_rows_of(items)
        self._source_rows = self._pairs.source_rows_of(items)
        self._located: list[tuple[Rows, Rows]] = []
        for number, (member, cache) in enumerate(zip(self._plan.members, self._caches, strict=True)):
            rows = member.rows_for(self._store_rows)
            self._located.append((cache.chunks_of(rows)[1] if number else places, rows))

    def copy(self, start: int, stop: int) -> RowColumns:
        """Return copies of the rows at positions ``start`` to ``stop`` of the window, once it is ready."""
        columns = tuple(
            lease.gather(index[start:stop], rows[start:stop])
            for lease, (index, rows) in zip(self._leases, self._located, strict=True)
        )
        schemas = tuple(cache.schema for cache in self._caches)
        return RowColumns(self._store_rows[start:stop], self._source_rows[start:stop], columns, schemas)

    def release(self) -> None:
        """Let the chunks be evicted. Never waits, so that finalizers may call it; later calls do nothing."""
        while self._pinned:
            self._pinned.pop().release()

    def release_after(self, copies: Sequence[Future[RowColumns]]) -> Callable[[Future[RowColumns]], None]:
        """Return a callback for each of the copies that releases the window when all of them are done."""

        def release(_: Future[RowColumns]) -> None:
            if all(copied.done() for copied in copies):
                self.release()

        return release
