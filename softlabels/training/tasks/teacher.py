"""The task of a teacher: hard targets of each head."""

from __future__ import annotations

import numpy as np

from softlabels.errors import InvalidData
from softlabels.models import OutputHead
from softlabels.sources import check_classes
from softlabels.training import language
from softlabels.training.recipe import Recipe
from softlabels.training.run_data import Prepared
from softlabels.training.tasks.hard_targets import hard_targets, hard_term
from softlabels.training.tasks.loss_spec import LossSpec
from softlabels.training.tasks.objective import Objective
from softlabels.training.tasks.task import Task
from softlabels.training.tasks.tokens import hard_token_term, next_token_mask


def teacher_task(prepared: Prepared, recipe: Recipe) -> Task:
    """Return the task of a model that learns from hard targets alone; every row of a text has next tokens.

    Args:
        prepared: Data of the run.
        recipe: Options of the run.

    Raises:
        InvalidData: No training row has a hard label.
    """
    source = prepared.source
    if language.is_language(source):
        heads = language.heads_of(source)
        return Task(
            heads=heads,
            rows=prepared.train,
            objectives=lambda model: [Objective(head=next(iter(heads)), terms=(hard_token_term(model),))],
            mask=next_token_mask,
        )
    heads = teacher_heads(prepared)
    targets = hard_targets(prepared, heads)
    recipe.check_heads(heads)
    objectives = [
        Objective(
            head=name,
            terms=(
                hard_term(
                    name,
                    target,
                    LossSpec.parse(recipe.loss_of(name) or "mse").losses[0] if target.is_regression else None,
                ),
            ),
            weight=recipe.weight_of(name),
        )
        for name, target in targets.items()
    ]
    rows = prepared.train
    labelled = np.zeros(len(rows), np.bool_)
    for target in targets.values():
        present = target.present(target.values(rows))
        labelled |= present.reshape(len(rows), -1).any(axis=1)
    return Task(heads=heads, rows=rows[labelled], objectives=lambda _: objectives, hard=targets)


def teacher_heads(prepared: Prepared) -> dict[str, OutputHead]:
    """Return the heads that hard targets train: one per target with a value, or the next token of a text.

    Args:
        prepared: Data of the run.

    Raises:
        InvalidData: No training row has a hard label, or the labels are identifiers.
    """
    source = prepared.source
    if language.is_language(source):
        return language.heads_of(source)
    heads = {
        name: OutputHead(classes=target.classes, kind=target.kind, shape=target.shape)
        for name, target in source.targets.items()
    }
    targets = hard_targets(prepared, heads)
    if not targets:
        raise InvalidData(f"{source.spec}: no hard labels to train on, got none in the training rows; expected some")
    if prepared.hard is not None:
        check_classes(source, labelled=int((prepared.hard >= 0).sum()))
    return {name: heads[name] for name in targets}
