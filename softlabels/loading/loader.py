"""The loader: batches of soft labels, joined to their inputs, in an order that only the seed decides.

Three stages run beside one another: threads that read, verify and decode chunks; one that takes rows, reads inputs and
checks that they belong together; and the consumer. Every step of every epoch can be reached directly, on any number of
ranks and workers, so resuming costs one window.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.loading.batch import Batch
from softlabels.loading.chunks import budget
from softlabels.loading.chunks.threads import ahead
from softlabels.loading.ensemble import Ensemble
from softlabels.loading.examples import Examples, RowDataset
from softlabels.loading.mixture import MixedDataset, Mixture
from softlabels.loading.order.steps import Span, Steps
from softlabels.sources import Source
from softlabels.store import Store

if TYPE_CHECKING:
    import torch

GROUP_BYTES = 2**22
MOST_IN_GROUP = 32
"""Batches are made in groups of so many bytes, and so many batches, at most."""


class Loader:
    """Batches from a store, from data, or from both joined by key.

    Iterating goes from where the loader is to the end of the epoch, then the next time through the next one: a loop
    that was left early is gone on with, by this object or by one that loads its state. ``epoch`` and ``stream`` reach
    any step without that memory.

    Args:
        store: where the soft labels are, or an Ensemble or a Mixture; None: hard labels only.
        inputs: the user's data; None: labels alone.
        batch_size: rows a step, over all ranks; the last of an epoch may have fewer.
        seed: of the order.
        shuffle: whether to.
        window: chunks shuffled together; chunks are about 1 MiB.
        by_length: batch ragged rows of about one length; only whole batches within a window are.
        rows: rows of the data (of the store, without data) to use; None: all.
        check: re-hash inputs as they pass: the first row of each batch (``sample``), ``all``, or ``off``.
        missing: ``error`` where rows of the data have no label, or ``drop`` those; ``items.joined`` says which.
        views: of several augmented versions of an example ``all`` are items, or one is drawn an epoch (``draw``).
        rank: which share of each batch to hand out.
        world_size: how many shares there are.
        last: what becomes of the rows that fill no batch: ``keep``, ``drop``, or fill it up by ``repeat``-ing rows.
        workers: processes that make batches, for inputs that are slow to read; 0: threads of this one.
        threads: that read and decode; None: as many as there are cores, at most four, and one where chunks are small.
        memory: bytes of decoded chunks to hold. A store that fits is decoded once and kept, so that later epochs read
            nothing; of a larger one two or three windows are held. None: an eighth of what is free, divided by
            ``workers`` and ``world_size``; 256 MiB to 4 GiB, but at most half.
        device: hand out torch tensors there; None: NumPy arrays.

    Raises:
        InvalidArgument: neither store nor data, or sizes that cannot be meant.
        KeyMissing: data without labels.
    """

    def __init__(
        self,
        store: Store | Ensemble | Mixture | None,
        *,
        inputs: Source | None = None,
        batch_size: int = 256,
        seed: int = 0,
        shuffle: bool = True,
        window: int = 64,
        by_length: bool = False,
        rows: NDArray[np.int64] | None = None,
        check: str = "sample",
        missing: str = "error",
        views: str = "all",
        rank: int = 0,
        world_size: int = 1,
        last: str = "keep",
        workers: int = 0,
        threads: int | None = None,
        memory: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if window < 1 or workers < 0 or (threads is not None and threads < 1):
            raise InvalidArgument(f"window and threads are above 0, workers at least 0: {window}, {threads}, {workers}")
        if not 0 <= rank < world_size:
            raise InvalidArgument(f"rank is 0 to world_size - 1, not {rank} of {world_size}")
        self.store = store
        self.inputs = inputs
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size
        self.workers = workers
        self.device = device
        self.memory = memory
        options: dict[str, Any] = {
            "check": check,
            "missing": missing,
            "views": views,
            "seed": seed,
            "shuffle": shuffle,
            "window": window,
            "by_length": by_length,
            "batch_size": batch_size,
            "memory": budget.default_memory(max(1, workers) * world_size) if memory is None else memory,
            "threads": threads or (1 if workers else None),
            "widen": device is None,
            "tensors": device is not None,
        }
        self.items: RowDataset
        if isinstance(store, Mixture):
            if inputs is not None or rows is not None:
                raise InvalidArgument("the parts of a mixture have inputs and rows of their own; give them there")
            self.items = MixedDataset(store, **options)
        else:
            self.items = Examples(store, inputs, rows=rows, **options)
        self.steps = Steps(self.items.length, batch_size, last)
        self._next = (0, 0)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        """What is left of the epoch: all of it, unless a loop was left early or a state loaded."""
        epoch, position = self._next
        for span, batch in self._batches(epoch, position):
            self._next = self.steps.after(span)
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be of this epoch: from its beginning, or from where the loader is if it is in it."""
        if self._next[0] != epoch:
            self._next = (epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the last batch was handed out, in a few integers, and of which store and order."""
        return self.items.identity.state(*self._next)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the last batch handed out when the state was taken; at any number of ranks and workers.

        Raises:
            InvalidArgument: the state is of another store, selection or order; says what differs.
        """
        self._next = self.items.identity.position(state)

    def stream(self, start_step: int = 0) -> Generator[Batch]:
        """Endless batches from ``start_step`` on, epoch after epoch."""
        epoch, index = divmod(start_step, len(self))
        for _, batch in self._batches(epoch, index * self.batch_size, endless=True):
            yield batch

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """The batches of one epoch from its ``start``-th on.

        Raises:
            StoreCorrupt: bytes in the store are not what was committed.
            LabelsMisaligned: an input is not the one its labels were made from.
            WorkerDied: a worker process ended.
        """
        for _, batch in self._batches(epoch, start * self.batch_size):
            yield batch

    def _batches(self, epoch: int, position: int, *, endless: bool = False) -> Generator[tuple[Span, Batch]]:
        """Batches with the steps they are of."""
        made: Generator[Batch]
        if self.workers:
            from softlabels.loading.workers import from_workers

            made = from_workers(self, epoch, position, endless=endless)
        else:
            made = ahead(self.produce(epoch, position, endless=endless), self._group())
        try:
            for span in self.steps.spans(epoch, position, endless=endless):
                batch = next(made)
                yield span, batch if self.device is None else _on_device(batch, self.device)
        finally:
            made.close()

    def produce(
        self, epoch: int, position: int, *, endless: bool = False, worker: int = 0, workers: int = 1
    ) -> Generator[Batch]:
        """This rank's batches, made here and now; every ``workers``-th of them, from the ``worker``-th on."""
        # Where others make batches in between, their rows are not copied.
        block = self._group() * self.batch_size if self.world_size == workers == 1 else 1
        walk = self.items.walk(epoch, position, endless=endless, block=block)
        length, at = self.steps.length, epoch * self.steps.length + position
        try:
            for number, span in enumerate(self.steps.spans(epoch, position, endless=endless)):
                if number % workers != worker:
                    continue
                first, last = span.share(self.rank, self.world_size)
                inside = min(first, length), min(last, length)
                walk.skip(span.epoch * length + inside[0] - at)
                taken = [walk.take(inside[1] - inside[0])]
                at = span.epoch * length + inside[1]
                if last > length:
                    taken += self._repeated(span.epoch, max(first, length), last)
                yield self.items.batch(span, taken)
        finally:
            walk.close()

    def _group(self) -> int:
        """Batches that are made together."""
        return max(1, min(MOST_IN_GROUP, GROUP_BYTES // max(1, self.items.row_bytes() * self.batch_size)))

    def _repeated(self, epoch: int, first: int, last: int) -> Iterator[Any]:
        """Rows from the epoch's beginning, for positions that go on behind its end."""
        while first < last:
            position = first % self.steps.length
            number = min(last - first, self.steps.length - position)
            walk = self.items.walk(epoch, position)
            try:
                taken = walk.take(number)
            finally:
                walk.close()
            yield taken
            first += number


def _on_device(batch: Batch, device: str | torch.device) -> Batch:
    import torch

    if torch.device(device).type == "cpu":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)


def loader(store: Store | Ensemble | Mixture | None, *, inputs: Source | None = None, **options: Any) -> Loader:
    """A Loader; the verb of the design."""
    return Loader(store, inputs=inputs, **options)
