"""Batches made by worker processes, for inputs that are slow to read.

Workers are started afresh (forkserver, or spawn where there is none) and open what they need themselves, because
threads, Arrow and open files do not survive a fork. The fork server imports torch once for all, so that a worker starts
in one second rather than three. It does not import Arrow, which starts a thread when it is imported. Worker w of n
makes every n-th batch from the w-th on, so the order is that of one process. Each worker decodes every window, as one
process does; the reading of inputs is shared. A worker ends when its parent does.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from softlabels.errors import WorkerDied
from softlabels.loading.batch import Batch
from softlabels.loading.home import end_with_parent

if TYPE_CHECKING:
    from softlabels.loading.loader import Loader

MAX_AHEAD = 4
"""Batches that a worker makes before they are needed."""
MAIN = "__main__"
"""The module that Python's fork server imports by default."""
DIED = "exited unexpectedly"
"""Words of torch's error for a worker that ended without an error of its own."""


class WorkerShare(IterableDataset[Batch]):
    """The batches that one worker makes.

    Args:
        loader: Loader whose batches are made.
        epoch: Epoch to begin in.
        position: Position to begin at.
        endless: Continue with the next epochs.
    """

    def __init__(self, loader: Loader, epoch: int, position: int, *, endless: bool = False) -> None:
        super().__init__()
        self._loader = loader
        self._start = (epoch, position)
        self._endless = endless

    def __iter__(self) -> Generator[Batch]:
        """Yield the batches of this worker, as tensors in shared memory, which pass between processes uncopied."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for batch in self._loader.produce(*self._start, endless=self._endless, worker=worker, workers=workers):
            yield batch.shared()


def from_workers(loader: Loader, epoch: int, position: int, *, endless: bool) -> Generator[Batch]:
    """Yield all batches of a loader's rank, in order.

    Raises:
        WorkerDied: A worker was killed or ran out of memory.
        StorageFailed: /dev/shm is full.
    """
    preload_torch()
    share = WorkerShare(loader, epoch, position, endless=endless)
    batches = DataLoader(
        share,
        batch_size=None,
        num_workers=loader.workers,
        multiprocessing_context=start_method(),
        prefetch_factor=MAX_AHEAD,
        collate_fn=_unchanged,
        worker_init_fn=end_with_parent,
    )
    try:
        for batch in batches:
            yield batch if loader.device is not None else batch.numpy()
    except (RuntimeError, ConnectionError, EOFError) as error:
        # torch passes on what a worker raised. The end of a worker shows as any of these errors.
        if str(error).startswith("Caught ") or (type(error) is RuntimeError and DIED not in str(error)):
            raise
        raise WorkerDied(
            f"workers: a worker of the loader was killed or ran out of memory, got {error}. Use fewer workers or a "
            "smaller window"
        ) from error


def start_method() -> str:
    """Return the start method of worker processes, which is never fork."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def preload_torch() -> None:
    """Let the fork server import torch before it forks the first worker, unless the user chose its modules.

    Otherwise every worker imports torch itself, again in each epoch, and stopping waits up to five seconds for each
    worker that is still starting.
    """
    modules = getattr(forkserver._forkserver, "_preload_modules", None)  # noqa: SLF001  there is no getter
    if modules == [MAIN]:
        multiprocessing.set_forkserver_preload([MAIN, "torch.utils.data"])


def _unchanged(batch: Any) -> Any:
    return batch
