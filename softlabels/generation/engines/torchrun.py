"""The engine of launchers: each process that torchrun, srun or a Slurm job array starts labels units by its rank.

There are no collectives and no master: the processes meet in the store alone. Any number of them may start late, die,
or be started again with another number of ranks. The process that finds every unit committed seals the store.
"""

from __future__ import annotations

import os
from dataclasses import replace

from softlabels.errors import InvalidArgument
from softlabels.generation.engine import Engine, Labelled, ProgressReport, Work
from softlabels.generation.labelling import label_missing
from softlabels.generation.ranks import find_rank
from softlabels.generation.tally import Tally


def run(work: Work, progress: ProgressReport | None = None) -> Labelled:
    """Label the units of this process's rank, then those that other ranks have not begun.

    Args:
        work: Data, teacher and store.
        progress: Callback that receives the rows done.

    Raises:
        InvalidArgument: No launcher has set a rank.
        SoftLabelsError: As the local engine.
    """
    rank = find_rank(os.environ)
    if rank is None:
        raise InvalidArgument(
            "engine torchrun: got no RANK and WORLD_SIZE, and no variables of Slurm; expected a launcher. Run torchrun "
            "--nproc-per-node N -m softlabels_cli generate ..., or use engine='local', processes=N"
        )
    tally = Tally(work, progress)
    label_missing(replace(work, rank=rank), tally.add)
    return tally.labelled


ENGINE = Engine(name="torchrun", summary="One of several processes that torchrun or Slurm started.", run=run)
