"""The task of a student: soft labels of each head, and hard ones if there are any."""

from __future__ import annotations

from collections.abc import Callable

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels, SoftLabels
from softlabels.loading import Batch
from softlabels.models import Model, OutputHead
from softlabels.models.run_record import RunLabels
from softlabels.sources import Source
from softlabels.store import Store
from softlabels.training import language
from softlabels.training.inputs import Prepared
from softlabels.training.recipe import Recipe
from softlabels.training.tasks.classes import hard_class_term, soft_class_term
from softlabels.training.tasks.objective import Objective, Term
from softlabels.training.tasks.task import Task
from softlabels.training.tasks.tokens import hard_token_term, soft_token_term


def student_task(teacher: Store | Model, head: str, prepared: Prepared, recipe: Recipe) -> Task:
    """Return the task of a model that learns from soft labels.

    Args:
        teacher: Soft labels, or a live teacher.
        head: Name of the head to learn.
        prepared: Data of the run.
        recipe: Options of the run.

    Raises:
        InvalidArgument: There is no such head, or it has fewer classes than the data.
        TemperatureNotStored: The labels hold no tail mass at the temperature of the recipe.
    """
    output = _output(teacher, head, prepared.source)
    temperature = recipe.temperature or _highest_temperature(teacher, head)
    if isinstance(teacher, Store):
        teacher.read([0], head).log_probs(temperature)  # raises if the labels hold nothing at this temperature

    def objectives(model: Model) -> list[Objective]:
        return [Objective(head=head, terms=_terms(model, head, teacher, prepared, recipe.alpha, temperature))]

    return Task(
        heads={head: output},
        rows=prepared.train,
        objectives=objectives,
        store=teacher if isinstance(teacher, Store) else None,
        labels=_labels_record(teacher, head, temperature),
    )


def soft_labels(teacher: Store | Model, head: str) -> Callable[[Batch], SoftLabels]:
    """Return a function from a batch to its soft labels.

    Args:
        teacher: Soft labels, which the batch holds; or a live teacher, which predicts them.
        head: Name of the head.
    """
    if isinstance(teacher, Store):
        return lambda batch: batch.targets[head]
    return lambda batch: predicted(teacher, head, batch)


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


def _terms(
    model: Model, head: str, teacher: Store | Model, prepared: Prepared, alpha: float, temperature: float
) -> tuple[Term, ...]:
    labels = soft_labels(teacher, head)
    if language.is_language(prepared.source):
        soft = soft_token_term(model, head, labels, temperature=temperature, weight=alpha)
        return (soft,) if alpha == 1 else (soft, hard_token_term(model, weight=1 - alpha))
    soft = soft_class_term(head, labels, temperature=temperature, weight=alpha)
    if prepared.hard is None or alpha == 1:
        return (soft,)
    return soft, hard_class_term(head, prepared.hard, weight=1 - alpha)


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
