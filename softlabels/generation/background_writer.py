"""A thread that encodes batches and commits units, so that the teacher never waits for encoding or the disk.

The teacher's thread runs batches and puts their outputs on a queue of two. This thread encodes them on the device they
are on, appends them to the unit, and commits the unit after its last batch. Memory: the queue, one chunk, and what the
statistics of the unit need.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from types import TracebackType
from typing import Self

from softlabels.generation.batches import Batch
from softlabels.generation.output_monitor import OutputMonitor
from softlabels.generation.unit_builder import UnitBuilder
from softlabels.store import RowCopier, StoreWriter
from softlabels.store.format.skipped_rows import SkippedRow

LOGGER = logging.getLogger(__name__)

QUEUED = 2
"""Batches that may wait: more than one being computed and one being encoded does not help."""


class BackgroundWriter:
    """Encoder, writer and committer of batches in a thread of its own; a context manager.

    Leaving the context waits until everything is committed; leaving it by an exception drops the unit in progress.

    Args:
        store: The store.
        copier: Stores that rows are copied from; None if there are none.
        monitor: Checks of the outputs before they are encoded; None to check nothing.

    """

    def __init__(
        self, store: StoreWriter, copier: RowCopier | None = None, monitor: OutputMonitor | None = None
    ) -> None:
        self._committed: deque[int] = deque()
        self._store = store
        self._copier = copier
        self._monitor = monitor
        self._queue: queue.Queue[Batch | None] = queue.Queue(maxsize=QUEUED)
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="softlabels-writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            self._abandoned.set()
        self._offer(None)
        self._thread.join()
        if error is None:
            self._raise_if_failed()

    def put(self, batch: Batch) -> None:
        """Hand over a batch with its outputs; waits while the queue is full.

        Args:
            batch: The batch.

        Raises:
            SoftLabelsError: An earlier batch could not be encoded or written.
        """
        self._raise_if_failed()
        self._offer(batch)
        self._raise_if_failed()

    def take_committed(self) -> list[int]:
        """Return the units that were committed since the last call, in order."""
        return [self._committed.popleft() for _ in range(len(self._committed))]

    def _offer(self, item: Batch | None) -> None:
        """Put ``item`` on the queue unless the thread has ended and nobody would take it."""
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        import torch

        # The teacher's threads use the cores; a second team of threads would only spin against them.
        torch.set_num_threads(1)
        try:
            while (batch := self._queue.get()) is not None and self._write_unit(batch):
                pass
        except BaseException as error:  # noqa: BLE001  carried to the teacher's thread, which raises it
            self._error = error

    def _write_unit(self, first: Batch) -> bool:
        """Write and commit the unit of ``first``; return False, without a commit, if the batches end before."""
        with UnitBuilder(self._store, first.unit, self._copier) as builder:
            batch: Batch | None = first
            while batch is not None and not self._abandoned.is_set():
                self._append(builder, batch)
                if batch.last:
                    if builder.commit():
                        self._committed.append(batch.unit)
                        LOGGER.debug("committed unit %d, %d rows", batch.unit, builder.rows)
                    return True
                batch = self._queue.get()
        return False

    def _append(self, builder: UnitBuilder, batch: Batch) -> None:
        """Append the rows of a batch to its unit, or to what the unit skips."""
        if len(batch.rows):
            if self._monitor is not None:
                self._monitor.check(batch)
            numbers = batch.rows - builder.first_row
            builder.append(batch.keys, batch.views, batch.outputs, batch.copied, batch.tokens, numbers)
        for bad in batch.skipped:
            builder.skip(SkippedRow(bad.row - builder.first_row, bad.key, bad.reason))
