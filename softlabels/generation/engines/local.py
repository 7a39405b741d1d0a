"""The local engine: one process, or several on this machine, run the teacher over the missing units.

Several processes that are started by hand may run on one store too: each claims the units it labels, and each unit is
committed once.
"""

from __future__ import annotations

from softlabels.generation.engine import Engine, Labelled, ProgressReport, Work
from softlabels.generation.labelling import label_missing
from softlabels.generation.tally import Tally
from softlabels.generation.worker_processes import label_in_processes


def run(work: Work, progress: ProgressReport | None = None) -> Labelled:
    """Label the units that are missing and that no other process is labelling.

    Args:
        work: Data, teacher and store.
        progress: Callback that receives the rows done.

    Raises:
        InvalidLogits: An output cannot be stored; committed units stay in the store.
        TeacherRejected: A later batch cannot be labels.
        WorkerDied: Processes end again and again before they have committed a unit.
        StoreError: The store cannot be written.
    """
    tally = Tally(work, progress)
    if (work.settings.processes or 1) > 1:
        label_in_processes(work, tally)
    else:
        label_missing(work, tally.add)
    return tally.labelled


ENGINE = Engine(name="local", summary="One process, or several (processes=).", run=run)
