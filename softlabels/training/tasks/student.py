"""The task of a student: soft labels of each head, and hard targets if there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from softlabels.errors import InvalidArgument
from softlabels.labels import SoftLabels, same_temperature
from softlabels.loading import Batch
from softlabels.loading.view_replay import has_views, replay_of
from softlabels.losses.chosen_tokens import HEAD as CHOSEN
from softlabels.models import Model, OutputHead
from softlabels.models.run_record import RunLabels
from softlabels.store import Store
from softlabels.training import language
from softlabels.training.recipe import Recipe
from softlabels.training.run_data import Prepared
from softlabels.training.tasks.hard_targets import HardTargets, hard_targets, hard_term
from softlabels.training.tasks.loss_spec import LossSpec, WeightedLoss
from softlabels.training.tasks.objective import Objective, Term
from softlabels.training.tasks.soft_targets import LivePredictions, SoftTargets, choose_loss, soft_term
from softlabels.training.tasks.task import Task
from softlabels.training.tasks.tokens import hard_token_term, mixed_token_term, next_token_mask, soft_token_term


def student_task(teacher: Store | Model, heads: Mapping[str, OutputHead], prepared: Prepared, recipe: Recipe) -> Task:
    """Return the task of a model that learns from soft labels.

    Args:
        teacher: Soft labels, or a live teacher.
        heads: Heads to learn, of the labels and the student.
        prepared: Data of the run.
        recipe: Options of the run.

    Raises:
        InvalidArgument: A head has fewer classes than the data, or a loss is not possible.
        TemperatureNotStored: The labels hold no tail mass at a temperature of the recipe.
    """
    recipe.check_heads(heads)
    soft = soft_targets(teacher)
    available = () if isinstance(teacher, Model) else tuple(teacher.heads)
    views = replay_of(teacher, prepared.source) if isinstance(teacher, Store) else None
    hard = hard_targets(prepared, heads, views)
    samples = _samples(teacher, heads, prepared)
    specs = {
        name: choose_loss(recipe.loss_of(name), name, head, samples[name], available) for name, head in heads.items()
    }
    temperatures = {name: _temperature(teacher, name, samples[name], recipe) for name in heads}
    _check_mean(teacher, temperatures, recipe)

    def objectives(model: Model) -> list[Objective]:
        return [
            Objective(
                head=name,
                terms=(
                    _token_terms(model, name, specs[name], soft, temperatures[name], recipe.alpha_of(name))
                    if language.is_language(prepared.source)
                    else _terms(name, specs[name], soft(name), temperatures[name], hard.get(name), recipe)
                ),
                weight=recipe.weight_of(name),
            )
            for name in heads
        ]

    return Task(
        heads=heads,
        rows=prepared.train,
        objectives=objectives,
        soft={name: soft(name) for name in heads},
        hard=hard,
        temperatures=temperatures,
        mask=next_token_mask if language.is_language(prepared.source) else None,
        store=teacher if isinstance(teacher, Store) else None,
        labels=_labels_record(teacher),
    )


def learned_heads(teacher: Store | Model, names: Sequence[str] | None = None) -> dict[str, OutputHead]:
    """Return heads of soft labels.

    Args:
        teacher: Soft labels, or a live teacher.
        names: Names of the heads; None: all.

    Raises:
        InvalidArgument: There is no such head; lists those there are.
    """
    if isinstance(teacher, Model):
        heads, spec = dict(teacher.heads), teacher.spec
    else:
        heads = {name: OutputHead.of_labels(head) for name, head in teacher.heads.items()}
        spec = str(teacher.storage)
    for name in names or ():
        if name not in heads:
            raise InvalidArgument(f"{spec}: no head {name!r}, got {', '.join(heads)}; expected one of them")
    return {name: heads[name] for name in names or heads}


def soft_targets(teacher: Store | Model) -> Callable[[str], SoftTargets]:
    """Return a function from a head to the function from a batch to its soft labels.

    Args:
        teacher: Soft labels, which the batch holds; or a live teacher, which predicts them.
    """
    if isinstance(teacher, Store):
        return lambda head: lambda batch: batch.targets[head]
    predictions = LivePredictions(teacher)
    return lambda head: lambda batch: predictions.labels(head, batch)


def _terms(
    head: str,
    spec: LossSpec,
    soft: SoftTargets,
    temperature: float,
    hard: HardTargets | None,
    recipe: Recipe,
) -> tuple[Term, ...]:
    """Return alpha * soft + (1 - alpha) * hard; without hard targets the soft part alone."""
    alpha = _alpha(head, recipe, has_hard=hard is not None)
    terms = [soft_term(head, loss, soft, temperature=temperature, hard=hard, weight=alpha) for loss in spec.losses]
    if hard is not None and alpha < 1:
        number_loss: WeightedLoss | None = spec.losses[0] if hard.is_regression else None
        terms.append(hard_term(head, hard, number_loss, weight=1 - alpha))
    return tuple(terms)


def _alpha(head: str, recipe: Recipe, *, has_hard: bool) -> float:
    alpha = recipe.alpha_of(head)
    if not has_hard and alpha == 0:
        raise InvalidArgument(
            f"alpha: uses hard labels alone, got 0 for head {head!r}, which has none; expected above 0. Name a column "
            "of hard labels, or choose another alpha"
        )
    return alpha if has_hard else 1.0


def _token_terms(
    model: Model,
    head: str,
    spec: LossSpec,
    soft: Callable[[str], SoftTargets],
    temperature: float,
    alpha: float,
) -> tuple[Term, ...]:
    """Return alpha * soft + (1 - alpha) * the next token; the soft part alone of heads that predict no token."""
    if model.heads[head].kind != "tokens":
        return tuple(soft_term(head, loss, soft(head), temperature=temperature) for loss in spec.losses)
    if all(loss.loss.labels_of is not None for loss in spec.losses):
        alpha = 1.0  # the tokens of the text are judged, not learned
    first = spec.losses[0]
    if 0 < alpha < 1 and language.uses_states(model) and len(spec.losses) == 1 and str(spec) == "kl":
        return (mixed_token_term(model, head, first, soft(head), temperature=temperature, alpha=alpha),)
    terms = [
        soft_token_term(
            model, head, loss, soft(loss.loss.labels_of or head), temperature=temperature, weight=alpha
        )
        for loss in spec.losses
    ]  # fmt: skip
    return (*terms, hard_token_term(model, weight=1 - alpha)) if alpha < 1 else tuple(terms)


def _samples(teacher: Store | Model, heads: Mapping[str, OutputHead], prepared: Prepared) -> dict[str, SoftLabels]:
    """Return the soft labels of one row of each head."""
    if isinstance(teacher, Store):
        return {name: teacher.read([0], name) for name in heads}
    rows = prepared.train[:1]
    batch = Batch(epoch=0, step=0, rows=rows, inputs=prepared.source.inputs(rows))
    predictions = LivePredictions(teacher)
    return {name: predictions.labels(name, batch) for name in heads}


def _temperature(teacher: Store | Model, head: str, sample: SoftLabels, recipe: Recipe) -> float:
    """Return the temperature of the losses of a head: that of the recipe, or the highest of the labels."""
    stored = (1.0,) if isinstance(teacher, Model) else teacher.heads[head].temperatures
    temperature = recipe.temperature_of(head) or max(stored)
    if not isinstance(teacher, Model) and hasattr(sample, "temperature_index"):
        sample.temperature_index(temperature)  # raises if the labels hold nothing at this temperature
    return temperature


def _check_mean(teacher: Store | Model, temperatures: Mapping[str, float], recipe: Recipe) -> None:
    """Raise InvalidArgument if labels of views are averaged at another temperature than that of the losses."""
    if recipe.views != "mean" or isinstance(teacher, Model) or not has_views(teacher):
        return
    for name, temperature in temperatures.items():
        highest = max(teacher.heads[name].temperatures)
        if not same_temperature(temperature, highest):
            raise InvalidArgument(
                f"views: the mean of distributions belongs to one temperature, got {temperature:g} for head {name!r}; "
                f"expected {highest:g}, the highest of the labels"
            )


def _labels_record(labels: Store | Model) -> RunLabels:
    """Return where the soft labels came from."""
    if isinstance(labels, Model):
        return RunLabels(snapshot=None, teacher_spec=labels.spec, teacher_digest=labels.digest)
    return RunLabels(
        snapshot=labels.snapshot.digest,
        store=str(labels.storage),
        teacher_spec=labels.descriptor.teacher.spec,
        teacher_digest=labels.descriptor.teacher.digest,
        encodings={name: stored.encoding for name, stored in labels.heads.items()},
        bytes_per_row=labels.bytes_per_row,
    )


def warning_of(labels: Store | Model, recipe: Recipe, heads: Mapping[str, OutputHead]) -> str | None:
    """Return a warning if a loss is known to fail on these labels, in a line; None if there is nothing to say.

    Args:
        labels: Soft labels, or a live teacher.
        recipe: Options of the run.
        heads: Heads to learn.
    """
    specs = [LossSpec.parse(text) for name in heads if (text := recipe.loss_of(name)) is not None]
    if isinstance(labels, Model) or not any(loss.loss.name == CHOSEN for spec in specs for loss in spec.losses):
        return None
    teacher, inputs = labels.descriptor.teacher, labels.inputs
    writer = None if inputs is None else inputs.written_by
    if writer is not None and writer in {teacher.digest, teacher.spec}:
        return None
    shown = "nobody knows who wrote the text" if writer is None else f"{writer} wrote the text"
    return (
        f"Warning: loss chosen is known to fail if writer and teacher differ, and {shown}, while the teacher is "
        f"{teacher.spec}. Record the writer with softlabels generate --written-by, or use the loss kl"
    )
