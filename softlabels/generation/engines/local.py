"""The local engine: one process runs the teacher over the missing units and commits them one by one.

Three threads share the work: one reads inputs a few batches ahead, this one runs the teacher, and one encodes and
writes. The teacher waits for neither of them, so a run takes as long as its forward passes (docs/performance.md).
Several processes may run on one store: each claims the units it labels, and each unit is committed once.
"""

from __future__ import annotations

from collections.abc import Iterator

from softlabels.generation.background_writer import BackgroundWriter
from softlabels.generation.batches import batches_of, prefetch_inputs
from softlabels.generation.engine import Engine, Labelled, ProgressReport, Work
from softlabels.generation.length_groups import predict_rows
from softlabels.generation.output_monitor import OutputMonitor
from softlabels.store import StoreWriter, UnitLocks


def run(work: Work, progress: ProgressReport | None = None) -> Labelled:
    """Label the units that are missing and that no other process on this machine is labelling.

    Args:
        work: Data, teacher and store.
        progress: Callback that receives the rows done.

    Raises:
        InvalidLogits: An output cannot be stored; units that were committed are kept.
        TeacherRejected: A later batch cannot be labels.
        StoreError: The store cannot be written.
    """
    store, total = work.store, len(work.plan)
    missing = list(store.missing())
    monitor = OutputMonitor(work.teacher.heads) if work.settings.gate else None
    copied_rows = 0
    with store.claims() as claims, BackgroundWriter(store, work.copier, monitor) as writer:
        done = total - sum(len(store.descriptor.unit_range(unit)) for unit in missing)
        if progress is not None:
            progress(done, total)
        units = _claimed(store, missing, claims)
        batches = batches_of(work.plan, store, units, work.settings.batch_size, work.copier)
        for batch, inputs in prefetch_inputs(work.plan, batches):
            if inputs is not None:
                predictions = predict_rows(work.teacher, inputs)
                batch = batch.labelled(predictions, inputs, store.descriptor)  # noqa: PLW2901  the same rows
            writer.put(batch)
            done += len(batch.rows)
            copied_rows += len(batch.rows) - len(batch.to_label)
            if progress is not None:
                progress(done, total)
    return Labelled(units=len(writer.committed), copied_rows=copied_rows)


def _claimed(store: StoreWriter, missing: list[int], claims: UnitLocks) -> Iterator[int]:
    """Yield the units that are still missing when their turn comes and that no other process is labelling.

    The units of other processes are tried once more in the end, because these may have died. Units that are claimed
    even then, for example by a process that was stopped, stay missing.
    """
    claimed_by_others = []
    for unit in missing:
        if not store.committed(unit):
            if claims.take(unit):
                yield unit
            else:
                claimed_by_others.append(unit)
    yield from (unit for unit in claimed_by_others if not store.committed(unit) and claims.take(unit))


ENGINE = Engine(name="local", summary="One process; several may share a store.", run=run)
