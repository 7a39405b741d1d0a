"""Training of a teacher from hard labels, and of a student from soft ones; both leave a run directory.

The same call again resumes a run that was interrupted, and returns one that has finished. A directory that holds
another run, or anything else, is not changed.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from softlabels.interruption import interruptible
from softlabels.models import DEFAULT_HEAD, Model
from softlabels.store import Store
from softlabels.training import language
from softlabels.training.inputs import DataLike, open_data, open_labels, prepare
from softlabels.training.recipe import Recipe
from softlabels.training.session import Session
from softlabels.training.splits import require_labels
from softlabels.training.tasks import student_task, teacher_task
from softlabels.training.trainer import CHECKPOINT_SECONDS, TrainingProgress


def train_teacher(
    data: DataLike,
    model: str | nn.Module,
    out: str | Path,
    *,
    device: str | None = None,
    progress: TrainingProgress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    steps: int | None = Recipe.steps,
    epochs: float | None = Recipe.epochs,
    batch_size: int = Recipe.batch_size,
    lr: float = Recipe.lr,
    weight_decay: float = Recipe.weight_decay,
    warmup: float = Recipe.warmup,
    clip: float = Recipe.clip,
    seed: int = Recipe.seed,
    hard_labels: int | None = Recipe.hard_labels,
) -> Model:
    """Train a model on hard labels.

    Args:
        data: Labelled data: a source, a path, or anything ``softlabels.sources`` opens. Rows of the split ``train`` are
            trained on, or nine tenths if there is no split column; the others measure the result.
        model: MODEL specification of a kind that can be trained, or a ``torch.nn.Module``; a copy is trained.
        out: Run directory.
        device: torch device; None: an accelerator if there is one.
        progress: Callback that shows how training proceeds; None: nothing is shown.
        checkpoint_seconds: Time between checkpoints in seconds: what a kill may cost.
        steps: Number of optimiser steps; None: from ``epochs``.
        epochs: Passes over the rows; None, with ``steps`` None too: 20.
        batch_size: Rows per step.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        warmup: Share of the steps in which the rate rises, 0 to 1.
        clip: Greatest norm of the gradient.
        seed: Seed of the initial weights, dropout, the order of rows, and the choice of hard labels.
        hard_labels: Number of training rows whose hard labels are used; None: all.

    Returns:
        The trained model on the CPU; ``run`` is its description.

    Raises:
        ColumnMissing: There is no label column.
        InvalidArgument: An option is out of range, or the model cannot take the data.
        InvalidData: No row of the training split has a label.
        StoreConflict: ``out`` holds something else.
        StoreBusy: Another process trains into ``out``.
        StorageFailed: ``out`` cannot be written.
        TrainingFailed: The loss is not finite.
        KeyboardInterrupt: A signal arrived; a checkpoint was written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     train_teacher("digits", "mlp:width=8,depth=1", f"{folder}/run", steps=2).run.metrics.steps
        2
    """
    recipe = Recipe(
        steps=steps, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, warmup=warmup, clip=clip,
        seed=seed, hard_labels=hard_labels,
    )  # fmt: skip
    with interruptible() as interruption:
        source = open_data(data)
        if not language.is_language(source):
            require_labels(source)
        language.check_student(model, source)
        prepared = prepare(source, recipe)
        session = Session(
            kind="teacher", prepared=prepared, task=teacher_task(prepared), recipe=recipe, folder=Path(out),
            interruption=interruption, progress=progress, checkpoint_seconds=checkpoint_seconds, device=device,
        )  # fmt: skip
        return session.train(model)


def train_student(
    labels: Store | Model | str | Path,
    data: DataLike | None,
    student: str | nn.Module,
    out: str | Path,
    *,
    head: str = DEFAULT_HEAD,
    device: str | None = None,
    progress: TrainingProgress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    steps: int | None = Recipe.steps,
    epochs: float | None = Recipe.epochs,
    batch_size: int = Recipe.batch_size,
    lr: float = Recipe.lr,
    weight_decay: float = Recipe.weight_decay,
    warmup: float = Recipe.warmup,
    clip: float = Recipe.clip,
    seed: int = Recipe.seed,
    hard_labels: int | None = Recipe.hard_labels,
    temperature: float | None = Recipe.temperature,
    alpha: float = Recipe.alpha,
) -> Model:
    """Train a model on soft labels, and on hard ones if there are any.

    Args:
        labels: A sealed store or its path; or a live teacher, which predicts at every step, to compare with.
        data: The inputs that the labels were made from, in any order: a source, a path, or anything
            ``softlabels.sources`` opens. Rows of the split ``train`` are trained on. None: the bundled digits, if the
            labels were made from them.
        student: MODEL specification of a kind that can be trained, or a ``torch.nn.Module``; a copy is trained.
        out: Run directory.
        head: Name of the teacher's head to learn.
        device: torch device; None: an accelerator if there is one.
        progress: Callback that shows how training proceeds; None: nothing is shown.
        checkpoint_seconds: Time between checkpoints in seconds: what a kill may cost.
        steps: Number of optimiser steps; None: from ``epochs``.
        epochs: Passes over the rows; None, with ``steps`` None too: 20.
        batch_size: Rows per step.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        warmup: Share of the steps in which the rate rises, 0 to 1.
        clip: Greatest norm of the gradient.
        seed: Seed of the initial weights, dropout, the order of rows, and the choice of hard labels.
        hard_labels: Number of training rows whose hard labels are used; None: all.
        temperature: Temperature of the KL; None: the highest the labels were captured at.
        alpha: Weight of the soft labels against the hard ones, 0 to 1.

    Returns:
        The trained model on the CPU; ``run`` is its description.

    Raises:
        KeyMissing: Rows have no soft labels.
        InvalidArgument: An option, a head or a class count does not fit, or data is needed.
        TemperatureNotStored: The labels hold no tail mass at this temperature.
        StoreConflict: ``out`` holds something else.
        StoreBusy: Another process trains into ``out``.
        StorageFailed: ``out`` cannot be written.
        TrainingFailed: The loss is not finite.
        KeyboardInterrupt: A signal arrived; a checkpoint was written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     teacher = train_teacher("digits", "mlp:width=8,depth=1", f"{folder}/teacher", steps=2)
        ...     student = train_student(teacher, "digits", "mlp:width=4,depth=1", f"{folder}/student", steps=2)
        >>> student.run.labels.head, student.run.data.held_out.rows
        ('logits', 450)
    """
    recipe = Recipe(
        steps=steps, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, warmup=warmup, clip=clip,
        seed=seed, hard_labels=hard_labels, temperature=temperature, alpha=alpha,
    )  # fmt: skip
    with interruptible() as interruption:
        teacher = open_labels(labels)
        source = open_data(data, teacher)
        prepared = prepare(source, recipe)
        language.check_student(student, source)
        session = Session(
            kind="student", prepared=prepared, task=student_task(teacher, head, prepared, recipe), recipe=recipe,
            folder=Path(out), interruption=interruption, progress=progress, checkpoint_seconds=checkpoint_seconds,
            device=device,
        )  # fmt: skip
        return session.train(student)
