"""Encoding and writing behind the teacher's back: one thread takes logits and leaves committed units.

The teacher's thread only runs batches and puts their logits on a queue of two; this thread encodes them where they are
(on the accelerator, on its own time), hands the arrays to the store, and commits each unit when its last batch has
come. Memory: the queue, one chunk being filled, and what the unit's extras need.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.generation.unit_encoder import UnitEncoder
from softlabels.store import RowCopier, StoreWriter, UnitWriter
from softlabels.store.format.descriptor import OWN_COLUMNS

if TYPE_CHECKING:
    from torch import Tensor

QUEUED = 2
"""Batches of logits that may wait: one being computed on while one is being encoded is all that helps."""


@dataclass(frozen=True)
class LabelledBatch:
    """One batch on its way from the teacher to the store.

    Attributes:
        unit: the unit these rows belong to.
        rows: (B,) absolute row numbers, ascending within the unit.
        keys: (B, 16) uint8 keys of the rows.
        logits: (n, C) what the teacher said of the rows that no donor holds, on whatever device; None where all do.
        last: the unit is complete after this batch.
        found: (B,) the rows of the donors to copy, -1 for those in ``logits``; None: all are in ``logits``.
    """

    unit: int
    rows: NDArray[np.int64]
    keys: NDArray[np.uint8]
    logits: Tensor | None
    last: bool
    found: NDArray[np.int64] | None = None


class BackgroundWriter:
    """Encodes, writes and commits in a thread of its own; a context manager.

    Leaving the context normally waits until all is committed; leaving it by an exception drops the unit at hand.

    Args:
        store: where units go.
        head: name of the head the logits belong to.
        donors: stores to copy rows from.
    """

    def __init__(self, store: StoreWriter, head: str, donors: RowCopier | None = None) -> None:
        self._donors = donors
        self.committed: list[int] = []
        self.lost: list[int] = []
        self._store = store
        self._head = head
        self._queue: queue.Queue[LabelledBatch | None] = queue.Queue(maxsize=QUEUED)
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

    def put(self, batch: LabelledBatch) -> None:
        """Hand a batch over; waits while the queue is full.

        Raises:
            SoftLabelsError: an earlier batch could not be encoded or written.
        """
        self._raise_if_failed()
        self._offer(batch)
        self._raise_if_failed()

    def _offer(self, item: LabelledBatch | None) -> None:
        """Put ``item`` on the queue, unless the thread has ended and nobody would take it."""
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

        # The teacher's threads have the cores; a second team of threads would only spin against them.
        torch.set_num_threads(1)
        try:
            while (batch := self._queue.get()) is not None and self._write_unit(batch):
                pass
        except BaseException as error:  # noqa: BLE001  carried to the teacher's thread, which raises it
            self._error = error

    def _write_unit(self, first: LabelledBatch) -> bool:
        """Write and commit the unit that starts with ``first``; False, and no commit, where the batches end before."""
        with self._store.begin(first.unit) as unit:
            encoder = UnitEncoder(self._store.descriptor, first.unit, self._store.codebooks)
            batch: LabelledBatch | None = first
            while batch is not None and not self._abandoned.is_set():
                self._append(unit, encoder, batch)
                if batch.last:
                    left = encoder.evidence
                    won = unit.commit(extras=left.extras(), fidelity=left.fidelity())
                    (self.committed if won else self.lost).append(batch.unit)
                    return True
                batch = self._queue.get()
        return False

    def _append(self, unit: UnitWriter, encoder: UnitEncoder, batch: LabelledBatch) -> None:
        rows = batch.rows - self._store.descriptor.unit_range(batch.unit).start
        copied = np.zeros(len(rows), bool) if batch.found is None else batch.found >= 0
        schema = self._store.descriptor.columns()
        parts: list[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]] = []
        if batch.logits is not None:
            fresh = np.flatnonzero(~copied)
            encoded = encoder.encode(self._head, batch.logits, rows[fresh])
            encoder.keep(self._head, encoded, batch.logits, rows[fresh])
            parts.append((fresh, {f"{self._head}/{name}": array for name, array in encoded.arrays.items()}))
        if self._donors is not None and batch.found is not None and copied.any():
            taken = self._donors.columns(batch.found[copied], list(schema))
            self._donors.add_evidence(encoder.evidence, batch.found[copied], taken, rows[copied])
            taken = {name: array for name, array in taken.items() if name not in OWN_COLUMNS}
            parts.append((np.flatnonzero(copied), taken))
        found = parts[0][1]
        if len(parts) > 1:
            order = np.argsort(np.concatenate([where for where, _ in parts]))
            found = ragged.take(ragged.join([arrays for _, arrays in parts]), schema, order)
        unit.append({"key": batch.keys, "view": np.zeros(len(rows), np.uint32), **found})
