"""The task of a teacher: hard labels of each head."""

from __future__ import annotations

import numpy as np

from softlabels.errors import InvalidData
from softlabels.models import DEFAULT_HEAD, OutputHead
from softlabels.sources import check_classes
from softlabels.training import language
from softlabels.training.inputs import Prepared
from softlabels.training.tasks.classes import hard_class_term
from softlabels.training.tasks.objective import Objective
from softlabels.training.tasks.task import Task
from softlabels.training.tasks.tokens import hard_token_term


def teacher_task(prepared: Prepared) -> Task:
    """Return the task of a model that learns from hard labels alone; every row of a text has next tokens.

    Args:
        prepared: Data of the run.

    Raises:
        InvalidData: No training row has a hard label, or the labels are identifiers.
    """
    source, hard = prepared.source, prepared.hard
    if language.is_language(source):
        heads = language.heads_of(source)
        return Task(
            heads=heads,
            rows=prepared.train,
            objectives=lambda model: [Objective(head=next(iter(heads)), terms=(hard_token_term(model),))],
        )
    if hard is None or source.classes is None or not (hard >= 0).any():
        raise InvalidData(f"{source.spec}: no hard labels to train on, got none in the training rows; expected some")
    check_classes(source, labelled=int((hard >= 0).sum()))
    objective = Objective(head=DEFAULT_HEAD, terms=(hard_class_term(DEFAULT_HEAD, hard),))
    return Task(
        heads={DEFAULT_HEAD: OutputHead(classes=source.classes)},
        rows=np.flatnonzero(hard >= 0),
        objectives=lambda _: [objective],
    )
