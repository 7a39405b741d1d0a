"""Training of a teacher from hard labels, and of a student from soft ones; both leave a run directory.

The same call again resumes a run that was interrupted, and returns one that has finished. A directory that holds
another run, or anything else, is not changed. Under ``torchrun`` the processes train one model together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Unpack

from torch import nn

from softlabels.interruption import interruptible
from softlabels.models import DEFAULT_HEAD, Model
from softlabels.signatures import with_options
from softlabels.sources import DataLike
from softlabels.store import Store
from softlabels.training import language
from softlabels.training.distributed import join_workers
from softlabels.training.networks import NewModel, new_model
from softlabels.training.recipe import Recipe, RecipeOptions
from softlabels.training.run_data import open_data, open_labels, prepare
from softlabels.training.session import Session
from softlabels.training.splits import require_labels
from softlabels.training.tasks.student import learned_heads, student_task, warning_of
from softlabels.training.tasks.teacher import teacher_heads, teacher_task
from softlabels.training.trackers import Tracker
from softlabels.training.trainer import CHECKPOINT_SECONDS, TrainingProgress

LOGGER = logging.getLogger(__name__)

with_recipe_options = with_options(
    {field.name: field.default for field in fields(Recipe)}, {field.name: field.type for field in fields(Recipe)}
)
"""Decorator that lists the fields of Recipe in a signature."""


@with_recipe_options
def train_teacher(
    data: DataLike,
    model: str | nn.Module,
    out: str | Path,
    *,
    device: str | None = None,
    progress: TrainingProgress | None = None,
    announce: Callable[[str], None] | None = None,
    track: Sequence[str | Tracker] = (),
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    keep_checkpoints: int = 1,
    **options: Unpack[RecipeOptions],
) -> Model:
    """Train a model on hard labels.

    Args:
        data: Labelled data: a source, a path, or anything ``softlabels.sources`` opens. Each target of the data is a
            head. Rows of the split ``train`` are trained on, or nine tenths if there is no split column; the others
            measure the result.
        model: MODEL specification of a kind that can be trained, ``run:DIR`` to train a model further, or a
            ``torch.nn.Module``; a copy is trained.
        out: Run directory.
        device: Torch device; None: an accelerator if there is one.
        progress: Callback that shows how training proceeds; None: nothing is shown.
        announce: Receives one line that says what is minimised, before the first step; None: nothing is shown.
        track: Names of trackers (``tensorboard``, ``wandb``, ``trackio``), or trackers, that receive the metrics.
        checkpoint_seconds: Time between checkpoints in seconds: what a kill may cost.
        keep_checkpoints: Number of checkpoints to preserve, the newest included.
        options: Fields of ``Recipe``, such as ``steps``, ``lr`` and ``seed``.

    Returns:
        The trained model on the CPU; ``run`` is its description.

    Raises:
        ColumnMissing: There is no label column.
        InvalidArgument: An option is out of range, or the model cannot take the data.
        InvalidData: No row of the training split has a label.
        StoreConflict: ``out`` holds something else.
        StoreBusy: Another process trains into ``out``.
        StorageFailed: ``out`` cannot be written.
        TrainingFailed: The loss or its gradient is not finite.
        WorkerDied: Another process of the run ended.
        KeyboardInterrupt: A signal arrived; a checkpoint was written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     train_teacher("digits", "mlp:width=8,depth=1", f"{folder}/run", steps=2).run.metrics.steps
        2
    """
    recipe = Recipe(**options)
    with interruptible() as interruption, join_workers(device) as workers:
        source = open_data(data)
        if not language.is_language(source):
            require_labels(source)
        language.check_student(model, source)
        prepared = prepare(source, recipe)
        network = new_model(model, prepared, teacher_heads(prepared), recipe)
        session = Session(
            kind="teacher",
            prepared=prepared,
            network=_on_device(network, device, workers.device),
            task=teacher_task(prepared, recipe),
            recipe=recipe,
            folder=Path(out),
            interruption=interruption,
            workers=workers,
            progress=progress,
            announce=announce,
            trackers=track,
            checkpoint_seconds=checkpoint_seconds,
            keep_checkpoints=keep_checkpoints,
        )
        return session.train()


@with_recipe_options
def train_student(
    labels: Store | Model | str | Path,
    data: DataLike | None,
    student: str | nn.Module,
    out: str | Path,
    *,
    heads: Sequence[str] | None = None,
    init_from: str | None = None,
    device: str | None = None,
    progress: TrainingProgress | None = None,
    announce: Callable[[str], None] | None = None,
    track: Sequence[str | Tracker] = (),
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    keep_checkpoints: int = 1,
    **options: Unpack[RecipeOptions],
) -> Model:
    """Train a model on soft labels, and on hard ones if there are any.

    Args:
        labels: A sealed store or its path; or a live teacher, which predicts at every step, to compare with.
        data: The inputs that the labels were made from, in any order: a source, a path, or anything
            ``softlabels.sources`` opens. Rows of the split ``train`` are trained on. None: the bundled digits, if the
            labels were made from them.
        student: MODEL specification of a kind that can be trained, ``run:DIR`` to train a model further, or a
            ``torch.nn.Module``; a copy is trained.
        out: Run directory.
        heads: Names of the heads to learn; None: all heads of the labels that the student has.
        init_from: MODEL specification of a language model of the same sizes, every n-th of whose layers the student
            starts with; None: initial weights.
        device: Torch device; None: an accelerator if there is one.
        progress: Callback that shows how training proceeds; None: nothing is shown.
        announce: Receives one line that says what is minimised, before the first step; None: nothing is shown.
        track: Names of trackers (``tensorboard``, ``wandb``, ``trackio``), or trackers, that receive the metrics.
        checkpoint_seconds: Time between checkpoints in seconds: what a kill may cost.
        keep_checkpoints: Number of checkpoints to preserve, the newest included.
        options: Fields of ``Recipe``, such as ``steps``, ``lr``, ``loss`` and ``alpha``.

    Returns:
        The trained model on the CPU; ``run`` is its description.

    Raises:
        KeyMissing: Rows have no soft labels.
        InvalidArgument: An option, a head, a loss or a class count does not fit, or data is needed.
        TemperatureNotStored: The labels hold no tail mass at this temperature.
        StoreConflict: ``out`` holds something else.
        StoreBusy: Another process trains into ``out``.
        StorageFailed: ``out`` cannot be written.
        TrainingFailed: The loss or its gradient is not finite.
        WorkerDied: Another process of the run ended.
        KeyboardInterrupt: A signal arrived; a checkpoint was written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     teacher = train_teacher("digits", "mlp:width=8,depth=1", f"{folder}/teacher", steps=2)
        ...     student = train_student(teacher, "digits", "mlp:width=4,depth=1", f"{folder}/student", steps=2)
        >>> student.run.objectives["logits"], student.run.data.held_out.rows
        ('0.9 * kl at T = 1 + 0.1 * cross_entropy', 450)
    """
    recipe = Recipe(**options)
    with interruptible() as interruption, join_workers(device) as workers:
        teacher = open_labels(labels)
        source = open_data(data, teacher)
        prepared = prepare(source, recipe, teacher)
        # The other heads of a store of text belong to the same tokens, and only some losses use them.
        default = [DEFAULT_HEAD] if language.is_language(source) and DEFAULT_HEAD in teacher.heads else None
        language.check_student(student, source)
        network = new_model(student, prepared, learned_heads(teacher, heads or default), recipe, init_from)
        warning = warning_of(teacher, recipe, network.model.heads)
        if warning is not None:
            LOGGER.warning(warning)
            if announce is not None:
                announce(warning)
        session = Session(
            kind="student",
            prepared=prepared,
            network=_on_device(network, device, workers.device),
            task=student_task(teacher, network.model.heads, prepared, recipe),
            recipe=recipe,
            folder=Path(out),
            interruption=interruption,
            workers=workers,
            progress=progress,
            announce=announce,
            trackers=track,
            checkpoint_seconds=checkpoint_seconds,
            keep_checkpoints=keep_checkpoints,
        )
        return session.train()


def _on_device(network: NewModel, device: str | None, local: str) -> NewModel:
    """Return a new model on the device of this process; ``cuda`` is the GPU of its rank."""
    return NewModel(model=network.model.to(local if device in {None, "cuda"} else device), start=network.start)
