"""Training of a teacher from hard labels, and of a student from soft ones; both leave a run directory.

The same call again resumes a run that was interrupted, and returns one that has finished. A directory that holds
another run, or anything else, is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabels import losses
from softlabels.errors import InvalidArgument, InvalidData
from softlabels.interruption import interruptible
from softlabels.labels import DISTRIBUTIONS, DenseLabels, SoftLabels
from softlabels.loading import Batch, Loader
from softlabels.models import DEFAULT_HEAD, Model, OutputHead, load_run, write_run
from softlabels.models.digest import state_of
from softlabels.models.run_files import write_file
from softlabels.models.run_record import RunKind, RunLabels, RunMetrics, RunModel, RunRecord
from softlabels.sources import Source
from softlabels.sources.store_tokens import StoreTokens
from softlabels.store import Store
from softlabels.text.tokenizer_files import FILE as TOKENIZER_FILE
from softlabels.training import language
from softlabels.training.evaluation import accuracy
from softlabels.training.inputs import DataLike, Prepared, open_data, open_labels, prepare
from softlabels.training.recipe import Recipe
from softlabels.training.run_claim import claimed, release
from softlabels.training.splits import require_labels
from softlabels.training.student import new_model
from softlabels.training.trainer import CHECKPOINT_SECONDS, TRAINER_VERSION, TrainingProgress, TrainingRun, fit


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
        heads, rows = _hard_targets(prepared)
        student = new_model(model, prepared, heads, recipe).to(device)
        loss = _hard_loss(student, prepared)
        run = TrainingRun(
            model=student,
            loader=_loader(None, prepared, rows, recipe, student),
            loss=loss,
            recipe=recipe,
            record=_record("teacher", student, prepared, recipe, labels=None),
            folder=Path(out),
            interruption=interruption,
            progress=progress,
            checkpoint_seconds=checkpoint_seconds,
            forward=_forward(student, source),
        )
        return _run(run, prepared)


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
        output = _output(teacher, head, source)
        loss_temperature = recipe.temperature or _highest_temperature(teacher, head)
        if isinstance(teacher, Store):
            teacher.read([0], head).log_probs(loss_temperature)  # raises if the labels hold nothing at this temperature
        language.check_student(student, source)
        network = new_model(student, prepared, {head: output}, recipe).to(device)

        def soft(batch: Batch) -> SoftLabels:
            return batch.targets[head] if isinstance(teacher, Store) else predicted(teacher, head, batch)

        def distillation(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
            hard = None if prepared.hard is None else prepared.hard[batch.rows]
            return losses.distillation(
                outputs[head], soft(batch), hard, temperature=loss_temperature, alpha=recipe.alpha
            )

        loss: language.Loss = distillation
        if language.is_language(source):
            loss = language.student_loss(network, head, soft, temperature=loss_temperature, alpha=recipe.alpha)

        store = teacher if isinstance(teacher, Store) else None
        labels_record = _labels_record(teacher, head, loss_temperature)
        run = TrainingRun(
            model=network,
            loader=_loader(store, prepared, prepared.train, recipe, network),
            loss=loss,
            recipe=recipe,
            record=_record("student", network, prepared, recipe, labels=labels_record),
            folder=Path(out),
            interruption=interruption,
            progress=progress,
            checkpoint_seconds=checkpoint_seconds,
            forward=_forward(network, source),
        )
        return _run(run, prepared, store)


def predicted(teacher: Model, head: str, batch: Batch) -> DenseLabels:
    """Return the labels that a live teacher predicts for a batch.

    Args:
        teacher: The teacher.
        head: Name of its head.
        batch: Batch with inputs.

    Raises:
        InvalidArgument: The batch has no inputs.
    """
    if batch.inputs is None:
        raise InvalidArgument("live teacher: the batch has no inputs, got labels alone; expected data")
    kind = teacher.heads[head].kind
    return DenseLabels(teacher.predict(batch.inputs)[head].float().cpu().numpy(), kind)


def _hard_targets(prepared: Prepared) -> tuple[dict[str, OutputHead], NDArray[np.int64]]:
    """Return the head that hard labels train, and the rows that have one; every row of a text has next tokens."""
    source, hard = prepared.source, prepared.hard
    if language.is_language(source):
        return language.heads_of(source), prepared.train
    if hard is None or source.classes is None or not (hard >= 0).any():
        raise InvalidData(f"{source.spec}: no hard labels to train on, got none in the training rows; expected some")
    return {DEFAULT_HEAD: OutputHead(classes=source.classes)}, np.flatnonzero(hard >= 0)


def _hard_loss(model: Model, prepared: Prepared) -> language.Loss:
    if language.is_language(prepared.source):
        return language.teacher_loss(model)

    def loss(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        if prepared.hard is None:
            raise InvalidData(f"{prepared.source.spec}: no hard labels to train on")
        return losses.cross_entropy(outputs[DEFAULT_HEAD], prepared.hard[batch.rows])

    return loss


def _forward(model: Model, source: Source) -> Callable[[Any], Mapping[str, Tensor]] | None:
    """Return the forward pass of networks that are trained through their final states; None for the others."""
    if not language.is_language(source) or not language.uses_states(model):
        return None
    module: Any = model.module
    return lambda inputs: {language.STATES: module.states(inputs)}


def _run(run: TrainingRun, prepared: Prepared, store: Store | None = None) -> Model:
    """Train, measure on the held-out rows, and write the run directory; or load the run that has finished."""
    with claimed(run.folder, run.record) as finished:
        network = run.model.module if run.model.user_code else None
        if not finished:
            fit(run)
            metrics = _measure(run.model, prepared, run.steps, store)
            model = run.model.to("cpu")
            network = model.module if model.user_code else None
            trained = replace(run.record.model, digest=model.digest, covers=model.digest_covers)
            if model.tokenizer is not None:
                write_file(run.folder, TOKENIZER_FILE, model.tokenizer.to_bytes())
            write_run(run.folder, replace(run.record, model=trained, metrics=metrics), state_of(model.module))
            release(run.folder)
        run.interruption.deliver(f"Interrupted; the run in {run.folder} has finished.")
        return load_run(run.folder, network)


def _measure(model: Model, prepared: Prepared, steps: int, store: Store | None) -> RunMetrics:
    """Return the result of a run; without an accuracy if no held-out row can be measured."""
    rows = prepared.held_out
    if language.is_language(prepared.source):
        return _measure_language(model, prepared, steps, store)
    labels = prepared.source.labels(rows) if len(rows) else None
    head = next(iter(model.heads.values()))
    if labels is None or not (labels >= 0).any() or head.kind != "classes" or head.shape != ():
        return RunMetrics(steps=steps, held_out_rows=len(rows))
    return RunMetrics(steps=steps, accuracy=accuracy(model, prepared.source, rows), held_out_rows=len(rows))


def _measure_language(model: Model, prepared: Prepared, steps: int, store: Store | None) -> RunMetrics:
    """Return the result of a run on text."""
    rows = prepared.held_out
    sample = None if model.tokenizer is None else language.sample_text(model, model.tokenizer)
    if len(rows) == 0:
        return RunMetrics(steps=steps, sample=sample)
    # Labels are compared row by row, so the rows of the data must be those of the store.
    labels = store if store is not None and isinstance(prepared.source, StoreTokens) else None
    figures = language.measure(model, prepared.source, rows, labels)
    return RunMetrics(
        steps=steps,
        held_out_rows=len(rows),
        perplexity=figures.perplexity,
        bits_per_byte=figures.bits_per_byte,
        kl=figures.kl,
        agreement=figures.agreement,
        sample=sample,
    )


def _loader(store: Store | None, prepared: Prepared, rows: NDArray[np.int64], recipe: Recipe, model: Model) -> Loader:
    device = None if model.device.type == "cpu" else str(model.device)
    return Loader(
        store, inputs=prepared.source, rows=rows, batch_size=recipe.batch_size, seed=recipe.seed, device=device
    )


def _record(kind: RunKind, model: Model, prepared: Prepared, recipe: Recipe, *, labels: RunLabels | None) -> RunRecord:
    initial = model.digest if model.user_code else None
    return RunRecord(
        kind=kind,
        model=RunModel(spec=model.spec, config=model.config, initial=initial),
        recipe=recipe.to_json(),
        data=prepared.record,
        labels=labels,
        trainer=TRAINER_VERSION,
    )


def _labels_record(labels: Store | Model, head: str, temperature: float) -> RunLabels:
    """Return where the soft labels came from."""
    if isinstance(labels, Model):
        return RunLabels(
            head=head, temperature=temperature, snapshot=None, teacher_spec=labels.spec, teacher_digest=labels.digest
        )
    return RunLabels(
        head=head,
        temperature=temperature,
        snapshot=labels.snapshot.digest,
        teacher_spec=labels.descriptor.teacher.spec,
        teacher_digest=labels.descriptor.teacher.digest,
        encodings={name: stored.encoding for name, stored in labels.heads.items()},
        bytes_per_row=labels.bytes_per_row,
    )


def _output(labels: Store | Model, head: str, source: Source) -> OutputHead:
    """Return the head to learn, whose classes must cover those of the data."""
    if isinstance(labels, Store):
        labels.head_columns(head)  # raises if there is no such head
        output = OutputHead.of_labels(labels.heads[head])
    elif head in labels.heads:
        output = labels.heads[head]
    else:
        raise InvalidArgument(f"{labels.spec}: no head {head!r}, got {', '.join(labels.heads)}; expected one of them")
    if output.kind not in DISTRIBUTIONS:
        raise InvalidArgument(
            f"head {head!r}: cannot be trained on, got kind {output.kind!r}; expected {', '.join(DISTRIBUTIONS)}. "
            "Use sl.loader and a loss of softlabels.losses"
        )
    if source.classes is not None and source.classes > output.classes:
        raise InvalidArgument(
            f"{source.spec}: more classes than the soft labels have, got {source.classes}; expected at most "
            f"{output.classes}. The labels are of another task, or --label names another column"
        )
    return output


def _highest_temperature(labels: Store | Model, head: str) -> float:
    return 1.0 if isinstance(labels, Model) else max(labels.heads[head].temperatures)
