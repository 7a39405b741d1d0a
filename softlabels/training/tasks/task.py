"""A task: the heads to learn, the rows to learn from, and the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from softlabels.loading import Batch
from softlabels.models import Model, OutputHead
from softlabels.models.run_record import RunLabels
from softlabels.store import Store
from softlabels.training.tasks.hard_targets import HardTargets
from softlabels.training.tasks.objective import Objective
from softlabels.training.tasks.soft_targets import SoftTargets


@dataclass(frozen=True, kw_only=True)
class Task:
    """The heads, rows and losses of a run.

    Attributes:
        heads: Heads to learn, by name.
        rows: Rows of the data to train on.
        objectives: Makes the objectives of the heads for the model that is trained.
        soft: Soft labels of a batch by head; empty for hard labels alone.
        hard: Hard targets by head; empty without any, and for text.
        temperatures: Temperature of the losses by head; 1 for heads that are not listed.
        mask: Positions of a batch that count, for text; None: all rows and positions.
        store: Store of the soft labels; None for hard labels and live teachers.
        labels: Description of the soft labels; None for hard labels.
    """

    heads: Mapping[str, OutputHead]
    rows: NDArray[np.int64]
    objectives: Callable[[Model], Sequence[Objective]]
    soft: Mapping[str, SoftTargets] = field(default_factory=dict)
    hard: Mapping[str, HardTargets] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)
    mask: Callable[[Batch], Tensor] | None = None
    store: Store | None = None
    labels: RunLabels | None = None
