"""Batches made by worker processes, for inputs that are slow to read.

Workers are started afresh (forkserver, or spawn where there is none) and open what they need themselves: threads,
Arrow and open files do not survive a fork. The server that forks them imports torch once for all, so that a worker
starts in a second and not in three; not Arrow, which starts a thread when it is imported. Worker w of n makes every
n-th batch from the w-th on, so the order is that of one process. Each worker decodes every window: that is what one
process pays, and reading inputs is shared.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from softlabels.errors import WorkerDied
from softlabels.loading.batch import Batch

if TYPE_CHECKING:
    from softlabels.loading.loader import Loader

PREFETCHED = 4
"""Batches that a worker may be ahead."""

MAIN = "__main__"
"""What Python has a server import where nothing was said."""

GONE = "exited unexpectedly"
"""What torch says of a worker that ended without an error of its own."""


class WorkerShare(IterableDataset[Batch]):
    """What one worker makes, from a position of an epoch on.

    Args:
        loader: whose batches.
        epoch: to begin in.
        position: to begin at.
        endless: go on into the next epochs.
    """

    def __init__(self, loader: Loader, epoch: int, position: int, *, endless: bool = False) -> None:
        super().__init__()
        self._loader = loader
        self._from = (epoch, position)
        self._endless = endless

    def __iter__(self) -> Generator[Batch]:
        """This worker's batches, as tensors in shared memory, which pass between processes without a copy."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for batch in self._loader.produce(*self._from, endless=self._endless, worker=worker, workers=workers):
            yield batch.shared()


def from_workers(loader: Loader, epoch: int, position: int, *, endless: bool) -> Generator[Batch]:
    """All batches of a loader's rank, in order.

    Raises:
        WorkerDied: a worker ended, by a signal or for want of memory.
        StorageFailed: /dev/shm is full.
    """
    import_once()
    share = WorkerShare(loader, epoch, position, endless=endless)
    batches = DataLoader(
        share,
        batch_size=None,
        num_workers=loader.workers,
        multiprocessing_context=start_method(),
        prefetch_factor=PREFETCHED,
        collate_fn=_as_it_is,
    )
    try:
        for batch in batches:
            yield batch if loader.device is not None else batch.numpy()
    except (RuntimeError, ConnectionError, EOFError) as error:
        # What a worker raised comes as such; a worker that is gone shows as any of these.
        if str(error).startswith("Caught ") or (type(error) is RuntimeError and GONE not in str(error)):
            raise
        raise WorkerDied(
            f"a worker of the loader was killed or ran out of memory ({error}); use fewer workers or a smaller window"
        ) from error


def start_method() -> str:
    """How worker processes are started: never by fork alone."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def import_once() -> None:
    """Let the server of forkserver workers import torch before it forks the first, unless it was told what to import.

    Without it every worker imports torch for itself, at each epoch again; and whoever stops while workers are still
    starting waits for them, up to five seconds each.
    """
    told = getattr(forkserver._forkserver, "_preload_modules", None)  # noqa: SLF001  there is no getter
    if told == [MAIN]:
        multiprocessing.set_forkserver_preload([MAIN, "torch.utils.data"])


def _as_it_is(batch: Any) -> Any:
    return batch
