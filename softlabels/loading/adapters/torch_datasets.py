"""torch's two kinds of dataset over labels and inputs, for a DataLoader, a Trainer, or any other consumer.

``LabelDataset`` is map-style: examples by number, in the order of a sampler. ``LabelStream`` is iterable: the batches
of a Loader, in its order. Worker processes open what they need themselves. They must be started afresh (forkserver or
spawn), because threads, Arrow and open files do not survive a fork; a forked worker is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from softlabels.errors import InvalidArgument
from softlabels.loading.batch import Batch
from softlabels.loading.chunks.rows import RowColumns
from softlabels.loading.collate.collator import Check
from softlabels.loading.collate.concat import concat_batches
from softlabels.loading.ensemble import Ensemble, opened
from softlabels.loading.examples import ExampleOptions, Examples
from softlabels.loading.home import Home
from softlabels.loading.join import Missing, Views
from softlabels.loading.loader import Loader
from softlabels.loading.order.epoch import Pairs, Rows
from softlabels.loading.order.shuffle import Order
from softlabels.loading.order.steps import Span
from softlabels.loading.view_replay import source_of
from softlabels.loading.workers import preload_torch
from softlabels.store import Store
from softlabels.store.storage.storage import Location


class LabelDataset(Dataset[Batch]):
    """A map-style dataset of examples with their soft labels.

    Without data, example i is row i of the store. With data it is the i-th of the selected rows of the data, in the
    order of the data; if every view is an example, the views of a row are adjacent. An example is a Batch of one row,
    and several examples are one Batch: pass ``collate_fn=collate`` to a DataLoader.

    Args:
        store: Store of the soft labels or its location, or an Ensemble.
        inputs: Data to join, as in ``Loader``. None: labels alone.
        size: Height and width of images and of replayed views in pixels, as in ``Loader``.
        rows: Row numbers to use, of the data if there is any, else of the store. None: all rows.
        check: Inputs to hash again: the first of each request (``sample``), ``all``, or none (``off``).
        missing: Treatment of data rows without a label: raise an ``error``, or ``drop`` them.
        views: Use of several views of an example: ``all`` are examples, or one is drawn per epoch (``one``).
        seed: Seed of the views that are drawn, and of ``sampler``.
        memory: Bytes of decoded chunks to hold in each process. One chunk is held in any case.

    Raises:
        InvalidArgument: Invalid options.
        KeyMissing: Data rows without labels.

    Example:
        >>> import softlabels as sl
        >>> from torch.utils.data import DataLoader
        >>> dataset = sl.LabelDataset(sl.open("labels"), inputs="digits")  # doctest: +SKIP
        >>> batches = DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=collate)  # doctest: +SKIP
    """

    def __init__(
        self,
        store: Store | Ensemble | Location,
        *,
        inputs: Any = None,
        size: int | None = None,
        rows: Rows | None = None,
        check: Check = "sample",
        missing: Missing = "error",
        views: Views = "all",
        seed: int = 0,
        memory: int = 2**28,
    ) -> None:
        self.store = labels = opened(store)
        self.inputs = None if inputs is None else source_of(inputs, labels, size)
        options = ExampleOptions(
            batch_size=1,
            seed=seed,
            shuffle=True,
            window=1,
            by_length=False,
            check=check,
            missing=missing,
            views=views,
            memory=memory,
            threads=1,
            tensors=False,
        )
        self._examples = Examples(labels, self.inputs, options, rows=rows, windowed=False)
        self._home = Home()
        preload_torch()
        # Shared with worker processes, so that persistent workers see a new epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._paired: tuple[int, Pairs, Rows | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what follows from the rest of it."""
        return self.__dict__ | {"_paired": None}

    def __len__(self) -> int:
        """Return the number of examples."""
        return self._examples.length

    def __getitem__(self, index: int) -> Batch:
        """Return one example as a batch of one row.

        Raises:
            IndexError: There is no such example.
            StoreCorrupt: Bytes in the store are not what was committed.
            LabelsMisaligned: An input is not the one that its labels were made from.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Return several examples as one batch, in a list for ``collate``. Raises what ``__getitem__`` does."""
        self._home.check()
        numbers = np.asarray(indices, np.int64)
        if len(numbers) and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"index: got {numbers.min()} to {numbers.max()}; expected 0 to {len(self) - 1}")
        numbers = numbers % len(self)
        epoch, pairs, order = self._pairs()
        items = numbers if order is None else order[numbers]
        rows = pairs.store_rows_of(items)
        members = list(zip(self._examples.plan.members, self._examples.caches, strict=True))
        columns = tuple(cache.gather(member.rows_for(rows)) for member, cache in members)
        schemas = tuple(cache.schema for cache in self._examples.caches)
        gathered = RowColumns(rows, pairs.source_rows_of(items), columns, schemas)
        return [self._examples.batch(Span(epoch, 0, 0, len(items)), [gathered])]

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of this epoch, in this process and in its workers."""
        self._epoch[0] = epoch

    def sampler(self, *, window: int = 64) -> WindowSampler:
        """Return a sampler in the order of a Loader, which requests rows of a few chunks at a time.

        Args:
            window: Number of chunks shuffled together. ``memory`` should be enough for them.

        Raises:
            InvalidArgument: A window below 1.
        """
        return WindowSampler(self, window)

    def _pairs(self) -> tuple[int, Pairs, Rows | None]:
        """Return the epoch, its pairs by store row, and for each example of this dataset the index of its pair."""
        epoch = int(self._epoch)
        if self._paired is None or self._paired[0] != epoch:
            pairs = self._examples.plan.pairs(epoch)
            # Pairs are sorted by store row. A stable sort by data row leaves views in their order.
            order = None if pairs.source_rows is None else np.argsort(pairs.source_rows, kind="stable")
            self._paired = epoch, pairs, order
        return self._paired

    def _ordered(self, epoch: int, window: int) -> Rows:
        """Return the numbers of all examples in the order of a Loader."""
        self.set_epoch(epoch)
        _, pairs, order = self._pairs()
        plan = self._examples.plan
        items = Order(pairs.per_chunk(plan.chunk_starts), seed=plan.seed, window=window).epoch(epoch)
        return items if order is None else np.argsort(order)[items]


class WindowSampler(Sampler[int]):
    """The numbers of a dataset's examples in the order of a Loader with its seed, epoch after epoch.

    A global shuffle requests rows of all chunks in every batch, and each chunk is decoded for a row or two. Windows of
    chunks stay in memory while their rows are requested.

    Args:
        dataset: Dataset to sample from.
        window: Number of chunks shuffled together.

    Raises:
        InvalidArgument: A window below 1.
    """

    def __init__(self, dataset: LabelDataset, window: int) -> None:
        if window < 1:
            raise InvalidArgument(f"window: got {window}; expected at least 1")
        self._dataset = dataset
        self._window = window
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._dataset)

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of one epoch; the next time those of the next epoch."""
        ordered = self._dataset._ordered(self._epoch, self._window)  # noqa: SLF001  the classes belong together
        self._epoch += 1
        return iter(ordered.tolist())

    def set_epoch(self, epoch: int) -> None:
        """Continue with this epoch."""
        self._epoch = epoch


class LabelStream(IterableDataset[Batch]):
    """The batches of a Loader, for a DataLoader with ``batch_size=None`` and ``collate_fn=collate``.

    Each worker makes every n-th batch, so the order is that of the Loader. Without workers the state of the loader
    moves as batches are taken. With workers it does not, because a DataLoader takes batches before they are needed.
    Call ``set_epoch`` before each epoch, as with a DistributedSampler, or give the Loader ``workers`` of its own, which
    leaves the state right.

    Args:
        loader: Loader whose batches are yielded.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self._loader = loader
        self._home = Home()
        preload_torch()
        self._epoch = torch.full((1,), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the share of this process in the rest of the epoch, as tensors.

        Raises:
            InvalidArgument: This process was forked.
        """
        self._home.check()
        if int(self._epoch) >= 0:
            self._loader.set_epoch(int(self._epoch))
        info = get_worker_info()
        if info is None:
            batches: Iterator[Batch] = iter(self._loader)
        else:
            if self._loader.memory is None:  # the default was computed for one process
                self._loader.items.divide_memory(info.num_workers)
            state = self._loader.state_dict()
            batches = self._loader.produce(state["epoch"], state["position"], worker=info.id, workers=info.num_workers)
        return (batch.tensors() for batch in batches)

    def set_epoch(self, epoch: int) -> None:
        """Continue with this epoch, in this process and in its workers."""
        self._epoch[0] = epoch


def collate(batches: Batch | Sequence[Batch]) -> Batch:
    """Return one batch of tensors from the examples of a dataset, for ``DataLoader(collate_fn=collate)``.

    Args:
        batches: A batch, or batches whose rows are concatenated.

    Raises:
        InvalidArgument: Labels of several stores that cannot be concatenated.
        StorageFailed: In a worker, if /dev/shm is full.
    """
    batch = batches if isinstance(batches, Batch) else concat_batches(batches)
    return batch.tensors() if get_worker_info() is None else batch.shared()
