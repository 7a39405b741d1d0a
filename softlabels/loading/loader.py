"""The loader: batches of soft labels, joined to their inputs, in an order that only the seed decides.

Three stages run at the same time: threads that read, verify and decode chunks; a thread that copies rows, reads inputs
and checks that they belong together; and the consumer. Every step of every epoch can be reached directly, on any number
of ranks and workers, so resuming costs one window.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.loading.batch import Batch
from softlabels.loading.chunks.budget import default_memory
from softlabels.loading.chunks.threads import prefetch
from softlabels.loading.collate.collator import Check
from softlabels.loading.ensemble import Ensemble, opened
from softlabels.loading.examples import ExampleOptions, Examples, ReadStatistics, RowDataset
from softlabels.loading.home import Home
from softlabels.loading.join import Missing, Views
from softlabels.loading.mixture import MixedDataset, Mixture
from softlabels.loading.order.steps import Last, Span, Steps
from softlabels.loading.view_replay import source_of
from softlabels.store import Store
from softlabels.store.storage.storage import Location

if TYPE_CHECKING:
    import torch

GROUP_BYTES = 2**22
MAX_GROUP = 32
"""Batches are made in groups of at most this many bytes and batches."""


class Loader:
    """Batches of soft labels from a store, of data, or of both joined by key.

    Iterating continues from the position of the loader to the end of the epoch, and the next time with the next epoch.
    A loop that was left early is thus resumed, by this object or by one that loads its state. ``epoch`` and ``stream``
    reach any step and leave the position alone. ``sl.loader`` is this class.

    Args:
        store: Store of the soft labels or its location, or an Ensemble or a Mixture. None: hard labels only.
        inputs: Data to join: a path or another DATA, arrays, a table, a dataset of Hugging Face ``datasets``, or a
            source; see ``softlabels.sources.as_source``. None: labels alone. If the store is of views, the views of
            these images are replayed.
        size: Height and width of images and of replayed views in pixels. None: those of the views in the store, or of
            the images.
        batch_size: Rows of a step over all ranks. The last step of an epoch may have fewer.
        seed: Seed of the shuffle order and of the views that are drawn.
        shuffle: Shuffle the rows. If False, rows come in ascending order.
        window: Number of chunks whose rows are shuffled together, at most 16 without `shuffle`. A chunk is about 1 MiB.
        by_length: Batch ragged rows of similar length. Only full batches within a window are.
        rows: Row numbers to use, of the data if there is any, else of the store. None: all rows.
        check: Inputs to hash again as they pass: the first row of each batch (``sample``), ``all``, or none (``off``).
        missing: Treatment of data rows without a label: raise an ``error``, or ``drop`` them. ``items.joined`` counts
            them.
        views: Use of several views of an example: ``all`` are rows of an epoch, one is drawn per epoch (``one``), or
            the ``mean`` of their labels belongs to the image itself, at the highest temperature of each head.
        rank: Share of each batch to return, from 0.
        world_size: Number of shares.
        last: Use of rows that do not fill a batch: ``keep``, ``drop``, or fill it by ``repeat``-ing rows.
        workers: Number of processes that make batches, for inputs that are slow to read. 0: threads of this process.
        threads: Number of threads that read and decode. None: one per core, at most four; one if chunks are small, or
            in worker processes; behind a network as many as the storage takes requests (32, 8 from the hub), divided by
            ``workers``.
        memory: Bytes of decoded chunks to hold. A store that fits is decoded once. None: an eighth of the free memory,
            divided by ``workers`` and ``world_size``; 256 MiB to 4 GiB, and at most half of the free memory.
        device: Device of the batches' tensors, e.g. ``"cuda"`` or ``"cpu"``. None: NumPy arrays.

    Raises:
        InvalidArgument: Neither store nor data, or invalid options.
        KeyMissing: Data rows without labels.

    Example:
        >>> import softlabels as sl
        >>> loader = sl.loader(None, inputs="digits", batch_size=256, seed=0)
        >>> batch = next(iter(loader))
        >>> batch.inputs.shape, len(loader)
        ((256, 8, 8), 8)
    """

    def __init__(
        self,
        store: Store | Ensemble | Mixture | Location | None,
        *,
        inputs: Any = None,
        size: int | None = None,
        batch_size: int = 256,
        seed: int = 0,
        shuffle: bool = True,
        window: int = 64,
        by_length: bool = False,
        rows: NDArray[np.int64] | None = None,
        check: Check = "sample",
        missing: Missing = "error",
        views: Views = "all",
        rank: int = 0,
        world_size: int = 1,
        last: Last = "keep",
        workers: int = 0,
        threads: int | None = None,
        memory: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        _check_at_least(1, window=window, batch_size=batch_size, threads=threads, memory=memory, world_size=world_size)
        _check_at_least(0, workers=workers)
        if not 0 <= rank < world_size:
            raise InvalidArgument(f"rank: got {rank}; expected 0 to {world_size - 1} for world_size {world_size}")
        self.store = labels = opened(store)
        self.inputs = (
            None if inputs is None else source_of(inputs, None if isinstance(labels, Mixture) else labels, size)
        )
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size
        self.workers = workers
        self.device = device
        self.memory = memory
        options = ExampleOptions(
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            window=window,
            by_length=by_length,
            check=check,
            missing=missing,
            views=views,
            memory=default_memory(max(1, workers) * world_size) if memory is None else memory,
            threads=threads,
            workers=workers,
            tensors=device is not None,
        )
        self.items: RowDataset
        if isinstance(labels, Mixture):
            if self.inputs is not None or rows is not None:
                raise InvalidArgument("inputs, rows: the parts of a mixture have their own. Pass them to Part")
            self.items = MixedDataset(labels, options)
        else:
            self.items = Examples(labels, self.inputs, options, rows=rows)
        self.steps = Steps(self.items.length, batch_size, last)
        self._next = (0, 0)

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the epoch: all of it, unless a loop was left early or a state was loaded.

        Raises:
            StoreCorrupt: Bytes in the store are not what was committed.
            LabelsMisaligned: An input is not the one that its labels were made from.
            WorkerDied: A worker process ended.
            InvalidArgument: The iterator was made before this process was forked.
        """
        epoch, position = self._next
        for span, batch in self._batches(epoch, position):
            self._next = self.steps.after(span)
            yield batch

    @property
    def statistics(self) -> ReadStatistics:
        """Figures of what was read in this process, e.g. the number of chunks that were decoded."""
        return self.items.statistics

    def set_epoch(self, epoch: int) -> None:
        """Continue with this epoch: from its beginning, or from the position of the loader if that is in it."""
        if self._next[0] != epoch:
            self._next = (epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last batch that was returned, and the identity of store and order."""
        return self.items.identity.state(*self._next)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue behind the last batch that was returned when the state was saved.

        The numbers of ranks and workers may differ.

        Raises:
            InvalidArgument: The state is of another store, selection or order; names the difference.
        """
        self._next = self.items.identity.position(state)

    def stream(self, start_step: int = 0) -> Generator[Batch]:
        """Yield batches from ``start_step`` on, epoch after epoch, without end. Raises what iterating does."""
        epoch, index = divmod(start_step, len(self))
        for _, batch in self._batches(epoch, index * self.batch_size, endless=True):
            yield batch

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """Yield the batches of one epoch from batch ``start`` on. Raises what iterating does."""
        for _, batch in self._batches(epoch, start * self.batch_size):
            yield batch

    def _batches(self, epoch: int, position: int, *, endless: bool = False) -> Generator[tuple[Span, Batch]]:
        """Yield batches with their steps."""
        home = Home()
        batches: Generator[Batch]
        if self.workers:
            from softlabels.loading.workers import from_workers

            batches = from_workers(self, epoch, position, endless=endless)
        else:
            batches = prefetch(self.produce(epoch, position, endless=endless), self._group())
        try:
            for span in self.steps.spans(epoch, position, endless=endless):
                home.check_iterator()
                batch = next(batches)
                yield span, batch if self.device is None else _on_device(batch, self.device)
        finally:
            batches.close()

    def produce(
        self, epoch: int, position: int, *, endless: bool = False, worker: int = 0, workers: int = 1
    ) -> Generator[Batch]:
        """Yield this rank's batches, made on this thread.

        Args:
            epoch: Epoch to begin in.
            position: Position to begin at.
            endless: Continue with the next epochs.
            worker: Number of the first batch to make.
            workers: Make every ``workers``-th batch from there on.
        """
        # Rows between the batches of this process are made elsewhere, and are not copied.
        block = self._group() * self.batch_size if self.world_size == workers == 1 else 1
        iterator = self.items.iterate(epoch, position, endless=endless, block=block)
        length, reached = self.steps.length, epoch * self.steps.length + position
        try:
            for number, span in enumerate(self.steps.spans(epoch, position, endless=endless)):
                if number % workers != worker:
                    continue
                first, last = span.share(self.rank, self.world_size)
                start, stop = min(first, length), min(last, length)
                iterator.skip(span.epoch * length + start - reached)
                runs = [iterator.read(stop - start)]
                reached = span.epoch * length + stop
                if last > length:
                    runs += self._repeated(span.epoch, max(first, length), last)
                yield self.items.batch(span, runs)
        finally:
            iterator.close()

    def _group(self) -> int:
        """Return the number of batches to make together."""
        return max(1, min(MAX_GROUP, GROUP_BYTES // max(1, self.items.row_bytes * self.batch_size)))

    def _repeated(self, epoch: int, first: int, last: int) -> Iterator[Any]:
        """Yield rows from the beginning of the epoch, for positions behind its end."""
        while first < last:
            position = first % self.steps.length
            count = min(last - first, self.steps.length - position)
            iterator = self.items.iterate(epoch, position)
            try:
                rows = iterator.read(count)
            finally:
                iterator.close()
            yield rows
            first += count


loader = Loader
"""The verb of the package, ``sl.loader``."""


def _on_device(batch: Batch, device: str | torch.device) -> Batch:
    import torch

    if torch.device(device).type == "cpu":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)


def _check_at_least(minimum: int, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < minimum:
            raise InvalidArgument(f"{name}: got {value}; expected at least {minimum}")
