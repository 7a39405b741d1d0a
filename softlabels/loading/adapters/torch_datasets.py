"""torch's two kinds of dataset over labels and inputs, for a DataLoader, a Trainer, or whatever else takes them.

``LabelDataset`` is map-style: item by number, in whatever order a sampler wants. ``LabelStream`` is iterable: the
batches of a Loader, in its order. Worker processes open what they need themselves; they must be started afresh
(forkserver or spawn), for threads, Arrow and open files do not survive a fork, and a forked one is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from softlabels.errors import InvalidArgument
from softlabels.loading.batch import Batch
from softlabels.loading.chunks.random_access import chunks
from softlabels.loading.chunks.windows import RowColumns
from softlabels.loading.collate.concat import join_batches
from softlabels.loading.ensemble import Ensemble
from softlabels.loading.examples import Examples
from softlabels.loading.join import Pairs, Rows
from softlabels.loading.loader import Loader
from softlabels.loading.order.shuffle import Order
from softlabels.loading.order.steps import Span
from softlabels.loading.workers import import_once
from softlabels.sources import Source
from softlabels.store import Store


class Home:
    """The process something was made, or unpickled, in."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[Callable[[], Home], tuple[()]]:
        """Another process is its own home."""
        return Home, ()

    def check(self) -> None:
        """Raise InvalidArgument in a process that was forked."""
        if os.getpid() != self._pid:
            raise InvalidArgument(
                "labels cannot be read in a forked process, where their threads are missing; start DataLoader workers "
                'with multiprocessing_context="forkserver" (Trainer: dataloader_multiprocessing_context)'
            )


class LabelDataset(Dataset[Batch]):
    """Examples by number, each with its soft labels: a map-style dataset.

    Without data, item i is row i of the store. With data it is the i-th of the rows of the data that are used, in the
    data's order; where every view is an item, those of a row follow one another. An item is a Batch of one row, and
    several are one Batch: give a DataLoader ``collate_fn=collate``.

    Args:
        store: where the soft labels are, or an Ensemble.
        inputs: the user's data; None: labels alone.
        rows: of the data (of the store, without data) to use; None: all.
        check: re-hash the first input of what is asked for (``sample``), ``all``, or ``off``.
        missing: ``error`` where rows of the data have no label, or ``drop`` those.
        views: of several augmented versions of an example ``all`` are items, or one is drawn an epoch (``draw``).
        seed: of the views that are drawn, and of ``sampler``.
        memory: bytes of decoded chunks to hold in each process.

    Raises:
        InvalidArgument: options that cannot be meant.
        KeyMissing: data without labels.
    """

    def __init__(
        self,
        store: Store | Ensemble,
        *,
        inputs: Source | None = None,
        rows: Rows | None = None,
        check: str = "sample",
        missing: str = "error",
        views: str = "all",
        seed: int = 0,
        memory: int = 2**28,
    ) -> None:
        options = {"check": check, "missing": missing, "views": views, "seed": seed}
        self.store = store
        self.inputs = inputs
        self._items = Examples(store, inputs, rows=rows, window=1, **options)  # type: ignore[arg-type]
        members = self._items.feed.members
        self._chunks = [chunks(member.store, member.names, memory // len(members)) for member in members]
        self._home = Home()
        import_once()
        # Shared with worker processes, so that those that live on learn of a new epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._paired: tuple[int, Pairs, Rows | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what follows from the rest."""
        return self.__dict__ | {"_paired": None}

    def __len__(self) -> int:
        """Items."""
        return self._items.length

    def __getitem__(self, index: int) -> Batch:
        """One item, as a batch of one row.

        Raises:
            IndexError: there is no such item.
            StoreCorrupt: bytes in the store are not what was committed.
            LabelsMisaligned: an input is not the one its labels were made from.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Several items as one batch, in a list for ``collate``; errors are those of one item."""
        self._home.check()
        numbers = np.asarray(indices, np.int64)
        if len(numbers) and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"items are 0 to {len(self) - 1}; {numbers.min()} to {numbers.max()} were asked for")
        numbers = numbers % len(self)
        epoch, pairs, order = self._pairs()
        items = numbers if order is None else order[numbers]
        rows = pairs.of_store(items)
        members = self._items.feed.members
        columns = tuple(held.take(member.of(rows)) for member, held in zip(members, self._chunks, strict=True))
        taken = RowColumns(rows, pairs.of_source(items), columns)
        return [self._items.batch(Span(epoch, 0, 0, len(items)), [taken])]

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of this epoch, in this process and in its workers."""
        self._epoch[0] = epoch

    def sampler(self, *, window: int = 64) -> WindowSampler:
        """A sampler in the loader's order, which asks for rows of a few chunks at a time.

        Args:
            window: chunks shuffled together; as much memory as they take should be granted.
        """
        return WindowSampler(self, window)

    def _pairs(self) -> tuple[int, Pairs, Rows | None]:
        """The epoch, its items by store row, and for each item of this dataset which of those it is."""
        epoch = int(self._epoch)
        if self._paired is None or self._paired[0] != epoch:
            pairs = self._items.feed.pairs(epoch)
            # Items are kept by store row; a stable sort by row of the data keeps views in their order.
            order = None if pairs.source_rows is None else np.argsort(pairs.source_rows, kind="stable")
            self._paired = epoch, pairs, order
        return self._paired

    def _ordered(self, epoch: int, window: int) -> Rows:
        """Item numbers in the loader's order."""
        self.set_epoch(epoch)
        _, pairs, order = self._pairs()
        feed = self._items.feed
        items = Order(pairs.per_chunk(feed.chunk_starts()), seed=feed.seed, window=window).epoch(epoch)
        return items if order is None else np.argsort(order)[items]


class WindowSampler(Sampler[int]):
    """Numbers of a dataset's items in the order a Loader with its seed gives, epoch after epoch.

    A global shuffle asks for rows of all chunks in every batch, and each chunk is decoded for a row or two; windows
    of chunks stay in memory while their rows are asked for.

    Args:
        dataset: whose items.
        window: chunks shuffled together.
    """

    def __init__(self, dataset: LabelDataset, window: int) -> None:
        if window < 1:
            raise InvalidArgument(f"window is above 0, not {window}")
        self._dataset = dataset
        self._window = window
        self._epoch = 0

    def __len__(self) -> int:
        """Items."""
        return len(self._dataset)

    def __iter__(self) -> Iterator[int]:
        """Item numbers of one epoch; the next time of the next one."""
        ordered = self._dataset._ordered(self._epoch, self._window)  # noqa: SLF001  the two are one thing
        self._epoch += 1
        return iter(ordered.tolist())

    def set_epoch(self, epoch: int) -> None:
        """Go on with this epoch."""
        self._epoch = epoch


class LabelStream(IterableDataset[Batch]):
    """A Loader's batches, for a DataLoader with ``batch_size=None`` and ``collate_fn=collate``.

    Each worker makes every n-th batch, so the order is that of the Loader. Without workers the loader's state moves as
    batches are taken. With workers it does not, for a DataLoader takes batches before they are wanted: call
    ``set_epoch`` before each epoch, as with a DistributedSampler; or let the Loader have ``workers`` itself, which
    keeps the state right.

    Args:
        loader: whose batches.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self._loader = loader
        self._home = Home()
        import_once()
        self._epoch = torch.full((1,), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """This process's share of what is left of the epoch, as tensors."""
        self._home.check()
        if int(self._epoch) >= 0:
            self._loader.set_epoch(int(self._epoch))
        info = get_worker_info()
        if info is None:
            made: Iterator[Batch] = iter(self._loader)
        else:
            if self._loader.memory is None:  # said of one process, and there are others
                self._loader.items.divide_memory(info.num_workers)
            state = self._loader.state_dict()
            made = self._loader.produce(state["epoch"], state["position"], worker=info.id, workers=info.num_workers)
        return (batch.tensors() for batch in made)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be of this epoch, in this process and in its workers."""
        self._epoch[0] = epoch


def collate(batches: Batch | Sequence[Batch]) -> Batch:
    """One batch of tensors from what a dataset gives; for ``DataLoader(collate_fn=...)``.

    Raises:
        InvalidArgument: labels of several stores that cannot be put together.
        StorageFailed: in a worker, where /dev/shm is full.
    """
    batch = batches if isinstance(batches, Batch) else join_batches(batches)
    return batch.tensors() if get_worker_info() is None else batch.shared()
