"""Labelling by one process: the teacher runs over the units that nobody else works on, and each is committed.

Three threads share the work: one reads inputs a few batches ahead, this one runs the teacher, and one encodes and
writes. The teacher waits for neither of them, so a run takes as long as its forward passes (docs/performance.md).

Every engine calls ``label_missing`` in each of its processes. Processes need not know of one another: each starts with
the units of its rank and then takes over those that others have not claimed yet. Claims are advice. A unit that two
processes label is committed once.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator

from softlabels.generation.background_writer import BackgroundWriter
from softlabels.generation.bad_rows import BatchLabeller
from softlabels.generation.batches import batches_of, prefetch_inputs
from softlabels.generation.engine import Work
from softlabels.generation.output_monitor import OutputMonitor
from softlabels.generation.ranks import Rank
from softlabels.generation.tally import Report, UnitProgress
from softlabels.interruption import interruptible
from softlabels.store import StoreWriter, UnitLocks

GRACE_SECONDS = 10.0
"""Time that a batch has to end after a signal, before the signal interrupts it."""

POLL_SECONDS = 1.0
"""Time between two looks at units that other processes have claimed."""


def label_missing(work: Work, report: Report) -> None:
    """Label the units that are missing and that no other process is labelling.

    Units that others have claimed are tried again in the end, until the claim of a process that died would have ended.
    Units that are claimed even then stay missing.

    Args:
        work: Data, teacher and store.
        report: Callback that receives the progress of each unit.

    Raises:
        InvalidLogits: An output cannot be stored; committed units stay in the store.
        TeacherRejected: A later batch cannot be labels.
        TooManyBadRows: More rows cannot be labelled than may be skipped.
        StoreError: The store cannot be written.
        KeyboardInterrupt: A signal arrived; the unit in progress was dropped, and committed units stay in the store.
    """
    monitor = OutputMonitor(work.teacher.heads) if work.settings.gate else None

    def watched(progress: UnitProgress) -> None:
        report(progress)
        interruption.deliver()

    with interruptible() as interruption, interruption.deferring(GRACE_SECONDS), work.store.claims() as claims:
        units = ClaimedUnits(work.store, claims, work.rank)
        _label(work, units, monitor, watched)
        deadline = time.monotonic() + claims.lapse_seconds
        while units.retry():
            _label(work, units, monitor, watched)
            if units.taken:
                deadline = time.monotonic() + claims.lapse_seconds
            elif time.monotonic() >= deadline:
                break
            else:
                time.sleep(POLL_SECONDS)
                interruption.deliver()
        interruption.deliver()


class ClaimedUnits:
    """The units that this process labels, in its order; each is claimed when its turn comes.

    Args:
        store: The store.
        claims: Claims of this process.
        rank: Position of this process.

    Attributes:
        taken: Units that the last iteration yielded.
    """

    def __init__(self, store: StoreWriter, claims: UnitLocks, rank: Rank) -> None:
        self._store = store
        self._claims = claims
        self._units = _in_order(list(store.missing()), store.descriptor.units, rank)
        self._refused: list[int] = []
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        self.taken = 0
        for unit in self._units:
            if self._store.committed(unit):
                continue
            if self._claims.take(unit):
                self.taken += 1
                yield unit
            else:
                self._refused.append(unit)

    def retry(self) -> bool:
        """Make the units that others had claimed the next ones; return False if all of them are committed."""
        self._units = [unit for unit in self._refused if not self._store.committed(unit)]
        self._refused = []
        return bool(self._units)


def _in_order(missing: list[int], units: int, rank: Rank) -> list[int]:
    """Return missing units: those of a rank, then those of the next ranks from the last one on.

    The owner of a block works on it from the first unit on, so whoever helps out meets it once.
    """
    if rank.count == 1:
        return missing
    blocks = [rank.block(units, offset) for offset in range(rank.count)]
    runs = [missing[bisect_left(missing, block.start) : bisect_left(missing, block.stop)] for block in blocks]
    return runs[0] + [unit for run in runs[1:] for unit in reversed(run)]


def _label(work: Work, units: ClaimedUnits, monitor: OutputMonitor | None, report: Report) -> None:
    """Label units and wait until they are committed."""
    store = work.store
    done: dict[int, UnitProgress] = {}
    labeller = BatchLabeller(work)
    with BackgroundWriter(store, work.copier, monitor) as writer:
        batches = batches_of(work.plan, store, units, work.settings.batch_size, work.copier)
        for batch, inputs in prefetch_inputs(work.plan, batches):
            before = done.get(batch.unit, UnitProgress(batch.unit, 0))
            skipped = before.skipped
            for labelled in labeller.label(batch, inputs):
                writer.put(labelled)
                skipped += labelled.skipped
            copied_rows = len(batch.rows) - len(batch.to_label)
            done[batch.unit] = before._replace(
                rows=before.rows + len(batch.rows), copied_rows=before.copied_rows + copied_rows, skipped=skipped
            )
            report(done[batch.unit])
            _report_committed(writer, done, report)
    _report_committed(writer, done, report)


def _report_committed(writer: BackgroundWriter, done: dict[int, UnitProgress], report: Report) -> None:
    """Report the units that were committed since the last call."""
    for unit in writer.take_committed():
        report(done.pop(unit)._replace(committed=True))
