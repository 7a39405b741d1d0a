"""A task: the heads to learn, the rows to learn from, and the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabels.models import Model, OutputHead
from softlabels.models.run_record import RunLabels
from softlabels.store import Store
from softlabels.training.tasks.objective import Objective


@dataclass(frozen=True, kw_only=True)
class Task:
    """The heads, rows and losses of a run.

    Attributes:
        heads: Heads to learn, by name.
        rows: Rows of the data to train on.
        objectives: Makes the objectives of the heads for the model that is trained.
        store: Store of the soft labels; None for hard labels and live teachers.
        labels: Description of the soft labels; None for hard labels.
    """

    heads: Mapping[str, OutputHead]
    rows: NDArray[np.int64]
    objectives: Callable[[Model], Sequence[Objective]]
    store: Store | None = None
    labels: RunLabels | None = None
