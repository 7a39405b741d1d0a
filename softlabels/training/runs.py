"""Training a teacher from hard labels, and a student from soft ones; both leave a run directory.

The same call again resumes a run that was interrupted and returns one that is finished; a directory that holds another
run, or anything else, is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from softlabels import losses, models
from softlabels.errors import InvalidArgument, InvalidData
from softlabels.labels import DenseLabels
from softlabels.loading import Batch, Loader
from softlabels.models import InputStatistics, Model, OutputHead, load_run, write_run
from softlabels.sources import Source
from softlabels.store import Store, open_store
from softlabels.training.directory import claim, release
from softlabels.training.evaluation import accuracy
from softlabels.training.recipe import Recipe, identity
from softlabels.training.splits import choose_hard_labels, require_labels, split_rows
from softlabels.training.trainer import CHECKPOINT_SECONDS, Fit, TrainingProgress, fit


def train_teacher(
    source: Source,
    model: str,
    out: str | Path,
    *,
    progress: TrainingProgress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    **recipe: Any,
) -> Model:
    """Train a built-in model on hard labels.

    Args:
        source: labelled data; rows whose split is ``train``, or nine tenths where there is no split column.
        model: MODEL specification of a built-in architecture.
        out: run directory.
        progress: told how it goes.
        checkpoint_seconds: time between checkpoints, which is what a kill may cost.
        recipe: fields of Recipe.

    Returns:
        The trained model; ``model.run`` is its description.

    Raises:
        ColumnMissing: there is no label column.
        InvalidData: no row of the training split has a label.
        StoreConflict: ``out`` holds something else.
        TrainingFailed: the loss is not finite.
    """
    settings = Recipe(**recipe)
    require_labels(source)
    train, held_out = split_rows(source)
    hard = choose_hard_labels(source, train, settings)
    classes = source.classes
    if hard is None or classes is None or not (hard >= 0).any():
        raise InvalidData(f"no training row of {source.spec} has a hard label")

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return losses.cross_entropy(logits, hard[batch.rows])

    rows = np.flatnonzero(hard >= 0)
    loader = Loader(None, inputs=source, rows=rows, batch_size=settings.batch_size, seed=settings.seed)
    student = _new_model(model, source, classes, train, settings)
    information = _information("teacher", student, settings, source, labels=None)
    job = Job(student, loader, loss, settings, Path(out), information, checkpoint_seconds)
    return _run(job, source, held_out, progress)


def train_student(
    labels: Store | Model | str | Path,
    source: Source,
    model: str,
    out: str | Path,
    *,
    head: str = "logits",
    progress: TrainingProgress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    **recipe: Any,
) -> Model:
    """Train a built-in model on soft labels, and on hard ones where there are.

    Args:
        labels: a sealed store (or its path); or a live teacher, which is asked at every step, to compare with.
        source: the inputs the labels were made from, in any order; trained on are the rows whose split is ``train``.
        model: MODEL specification of a built-in architecture.
        out: run directory.
        head: which output of the teacher.
        progress: told how it goes.
        checkpoint_seconds: time between checkpoints, which is what a kill may cost.
        recipe: fields of Recipe.

    Returns:
        The trained model; ``model.run`` is its description.

    Raises:
        KeyMissing: rows without soft labels.
        InvalidArgument: an option, a head or a class count that does not fit.
        TemperatureNotStored: the labels hold no tail mass at this temperature.
        StoreConflict: ``out`` holds something else.
        TrainingFailed: the loss is not finite.
    """
    settings = Recipe(**recipe)
    if isinstance(labels, str | Path):
        labels = open_store(labels)
    train, held_out = split_rows(source)
    hard = choose_hard_labels(source, train, settings)
    classes = _classes(labels, head, source)
    temperature = settings.temperature or _highest_temperature(labels, head)
    if isinstance(labels, Store):
        _check_temperature(labels, head, temperature)
    store = labels if isinstance(labels, Store) else None
    teacher = labels if isinstance(labels, Model) else None
    loader = Loader(store, inputs=source, rows=train, batch_size=settings.batch_size, seed=settings.seed)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        targets = ask(teacher, batch) if teacher is not None else batch.targets[head]
        known = None if hard is None else hard[batch.rows]
        return losses.distillation(logits, targets, known, temperature=temperature, alpha=settings.alpha)

    student = _new_model(model, source, classes, train, settings)
    information = _information("student", student, settings, source, labels=_provenance(labels, temperature))
    job = Job(student, loader, loss, settings, Path(out), information, checkpoint_seconds)
    return _run(job, source, held_out, progress)


def ask(teacher: Model, batch: Batch) -> DenseLabels:
    """What a live teacher says of a batch."""
    if batch.inputs is None:
        raise InvalidArgument("a live teacher needs inputs")
    return DenseLabels(teacher.logits(batch.inputs).float().cpu().numpy())


@dataclass(frozen=True)
class Job:
    """One training run: what is trained, on what, by which loss, to where."""

    model: Model
    loader: Loader
    loss: Callable[[Tensor, Batch], Tensor]
    recipe: Recipe
    out: Path
    information: dict[str, Any]
    checkpoint_seconds: float


def _run(job: Job, source: Source, held_out: NDArray[np.int64], progress: TrainingProgress | None) -> Model:
    """Train, measure on ``held_out``, and leave a run directory; or return the one that is there."""
    name = identity(job.information)
    if claim(job.out, job.information, name):
        return load_run(job.out)
    steps = job.recipe.total_steps(len(job.loader))
    fit(
        Fit(
            model=job.model,
            stream=job.loader.stream,
            loss=job.loss,
            recipe=job.recipe,
            steps=steps,
            folder=job.out,
            identity=name,
            checkpoint_seconds=job.checkpoint_seconds,
        ),
        progress,
    )
    measured: dict[str, Any] = {"steps": steps}
    if len(held_out) and source.columns.label is not None:
        measured |= {"accuracy": accuracy(job.model, source, held_out), "held_out_rows": len(held_out)}
    document = job.information | {"identity": name, "metrics": measured}
    document["model"] = job.information["model"] | {"digest": job.model.digest}
    write_run(job.out, document, job.model.module.state_dict())
    release(job.out)
    return load_run(job.out)


def _new_model(spec: str, source: Source, classes: int, train: NDArray[np.int64], recipe: Recipe) -> Model:
    """The model to be trained, standardising by the first rows of the training data."""
    spread = np.unique(np.linspace(0, len(train) - 1, num=min(4096, len(train))).astype(np.int64))
    return models.build(
        spec,
        input_shape=source.input_shape,
        heads={models.DEFAULT_HEAD: OutputHead(classes=classes)},
        seed=recipe.seed,
        statistics=InputStatistics.of(source.inputs(train[spread])),
    )


def _information(
    kind: str, model: Model, recipe: Recipe, source: Source, *, labels: dict[str, Any] | None
) -> dict[str, Any]:
    """What the run was told."""
    return {
        "kind": kind,
        "model": {"spec": model.spec, "config": dict(model.config)},
        "recipe": recipe.to_json(),
        "data": {"fingerprint": source.fingerprint, "rows": len(source), "label": source.columns.label},
        "labels": labels,
    }


def _provenance(labels: Store | Model, temperature: float) -> dict[str, Any]:
    """Where the soft labels came from."""
    if isinstance(labels, Model):
        return {"live_teacher": labels.digest, "temperature": temperature}
    return {
        "snapshot": labels.snapshot.digest,
        "teacher": labels.descriptor.teacher.to_json(),
        "encodings": {name: head.encoding for name, head in labels.heads.items()},
        "bytes_per_row": labels.bytes_per_row,
        "temperature": temperature,
    }


def _classes(labels: Store | Model, head: str, source: Source) -> int:
    """Classes of the labels, which must cover those of the data."""
    if isinstance(labels, Model):
        classes = labels.classes
    else:
        labels.head_columns(head)
        classes = labels.heads[head].classes
    if source.classes is not None and source.classes > classes:
        raise InvalidArgument(
            f"{source.spec} shows {source.classes} classes, but the soft labels have {classes}: "
            "they are of another task"
        )
    return classes


def _highest_temperature(labels: Store | Model, head: str) -> float:
    return 1.0 if isinstance(labels, Model) else max(labels.heads[head].temperatures)


def _check_temperature(store: Store, head: str, temperature: float) -> None:
    """Raise before the first step where the labels cannot be had at this temperature."""
    first = store.read([0], head)
    first.log_probs(temperature)
