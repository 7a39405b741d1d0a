"""Models side by side: quality by head, parameters, FLOPs, latency, memory, size, bytes of labels."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.labels import HeadKind
from softlabels.models import Model, ModelLike, OutputHead, PreprocessingOptions, as_model
from softlabels.models.cost import StartCost, measure_cost, measure_start
from softlabels.models.run_record import RunRecord
from softlabels.models.spec import kind_of
from softlabels.sources import DataLike, Source
from softlabels.sources.request import DataOptions, with_data_options
from softlabels.store.format import canonical_json
from softlabels.text.options import TextOptions
from softlabels.training.head_quality import HeadQuality
from softlabels.training.language_comparison import (
    ComparedText,
    compare_text,
    language_models,
    mean_of,
    open_text,
    text_of_models,
)
from softlabels.training.model_inputs import open_for_models
from softlabels.training.quality import evaluate
from softlabels.training.quality import mean_of as mean_of_heads
from softlabels.training.splits import TEST, TRAIN, hashed_keys, held_out_rows, trained_share


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """One row of a comparison.

    Attributes:
        name: MODEL specification, or the common part of those of a group.
        metric: Name of the measure in ``value``: the main one of the first head.
        value: Mean over the runs.
        spread: Standard deviation over the runs; None for one run.
        runs: Number of runs.
        retention: Share of the first row's value that is retained, for errors the inverse; None if the divisor is 0.
        parameters: Number of trainable values.
        flops: Floating-point operations of one forward pass; None if none was counted.
        latency_ms: Median time of a forward pass at batch 1 on one CPU thread, in milliseconds.
        latency_p95_ms: Time that 95 % of the passes take at most.
        latency_p99_ms: Time that 99 % of the passes take at most.
        rows_per_second: Rows per second in batches of 64, on all threads.
        bytes: Size of the weights file in bytes.
        label_bytes_per_row: Size of the labels it was trained from, in bytes per row; None without labels.
        trained_on: ``hard labels``, ``live teacher`` or the encoding of the soft labels; None for models without a run.
        hard_labels: Number of hard labels it was trained with, 0 for soft labels alone; None: all, or a model without
            a run.
        measured_on: Rows that all models were measured on, in words.
        measured_rows: Number of these rows.
        trained_share: Estimated share of the model's training rows that are among them; more than 0 is too optimistic.
        text: Quality on text of a model that predicts the next token; None for other models.
        heads: Quality of each head; empty for models of text.
        start: Time and memory of loading in a process of its own; None if it was not measured.
        load_average: Processes that ran on the machine, on average over the minute before the latency was measured.
        teacher_flops: Operations of the teacher for the labels it was trained from, which were computed once; None if
            the first model is not that teacher.
        teacher_flops_live: Operations of the teacher if it had run beside the training, once a row and epoch.
    """

    name: str
    metric: str
    value: float
    spread: float | None
    runs: int
    retention: float | None
    parameters: int
    flops: int | None
    latency_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    rows_per_second: float
    bytes: int
    label_bytes_per_row: float | None
    trained_on: str | None
    hard_labels: int | None
    measured_on: str
    measured_rows: int
    trained_share: float
    text: ComparedText | None = None
    heads: Mapping[str, HeadQuality] = field(default_factory=dict)
    start: StartCost | None = None
    load_average: float = 0.0
    teacher_flops: int | None = None
    teacher_flops_live: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``compare --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class MeasuredRows:
    """The rows of a comparison.

    Attributes:
        rows: Row numbers, ascending.
        name: The rows in words.
    """

    rows: NDArray[np.int64]
    name: str


@with_data_options
def compare(
    models: ModelLike | Sequence[ModelLike],
    data: DataLike,
    *,
    split: str | None = None,
    group_seeds: bool = True,
    memory: bool = False,
    heads: Mapping[str, OutputHead | HeadKind] | None = None,
    preprocessing: PreprocessingOptions | None = None,
    text: TextOptions | None = None,
    **columns: Unpack[DataOptions],
) -> list[ComparedModel]:
    """Measure models on the same rows, head by head.

    Args:
        models: MODEL specifications, or anything ``as_model`` takes; one of them or a sequence. The others are compared
            with the first.
        data: Labelled data. Without a size, each model gets images at the size that it takes.
        split: Name of the split to measure on; None: the rows that the runs held out.
        group_seeds: If True, runs that differ in their seed alone are one row.
        memory: If True, load each model in a process of its own to measure its start and memory.
        heads: Kinds of the outputs of exported files; see ``softlabels.models.as_model``.
        preprocessing: Preprocessing of images before exported files; None: what the models say.
        text: Options of text, for models that predict the next token; None: rows as the first model was trained on.
        columns: Roles of the columns of ``data``; see ``softlabels.sources.open_source``.

    Returns:
        A row per model, or per group of runs.

    Raises:
        InvalidArgument: There are no models, or the data shows more classes than a model has.
        InvalidData: There are no labelled rows that the runs held out.
        InvalidLogits: Outputs are NaN or infinite.

    Example:
        >>> import torch
        >>> rows = compare([lambda images: torch.eye(10)[images.long().sum((1, 2)) % 10]], "digits")
        >>> rows[0].measured_rows, rows[0].measured_on
        (450, 'split test')
    """
    if isinstance(models, str) or not isinstance(models, Sequence):
        models = [models]
    if not models:
        raise InvalidArgument("models: got none; expected at least one to measure")
    languages = language_models(models)
    if languages is not None:
        return _compare_languages(
            languages, open_text(languages, data, text, **columns), split, group_seeds=group_seeds
        )
    models, text = text_of_models(models, text)
    sources = open_for_models(models, data, **columns, text=text)
    samples = [source.inputs(np.zeros(1, np.int64)) for source in sources]
    compared = [_loaded(model, sample, heads, preprocessing) for model, sample in zip(models, samples, strict=True)]
    measured = rows_to_measure(sources[0], [model.run for model in compared if model.run is not None], split)
    of_classes = [_with_classes_of(model, source) for model, source in zip(compared, sources, strict=True)]
    qualities = evaluate(compared, of_classes, measured.rows)
    hashed, teacher = hashed_keys(sources[0])[measured.rows], compared[0]
    rows: list[ComparedModel] = []
    for indices in _groups(compared, group_seeds=group_seeds):
        group, sample = [compared[index] for index in indices], samples[indices[0]]
        by_head = mean_of_heads([qualities[index] for index in indices])
        main = next(iter(by_head.values()))
        row = _row(group, [next(iter(qualities[index].values())).value for index in indices], sample, measured, hashed)
        of_teacher = _teacher_flops(group[0], teacher, rows[0].flops if rows else row.flops)
        rows.append(
            replace(
                row,
                metric=main.metric,
                retention=main.retention,
                heads=by_head,
                start=_start(group[0], sample) if memory else None,
                teacher_flops=of_teacher[0],
                teacher_flops_live=of_teacher[1],
            )
        )
    return rows


def _loaded(
    model: ModelLike,
    sample: Any,
    heads: Mapping[str, OutputHead | HeadKind] | None,
    preprocessing: PreprocessingOptions | None,
) -> Model:
    """Return a model on the CPU; heads and preprocessing are for those that do not say them."""
    declares = isinstance(model, str) and kind_of(model).declares
    if not declares:
        return as_model(model, sample=sample).to("cpu")
    return as_model(model, sample=sample, heads=heads, preprocessing=preprocessing).to("cpu")


def _start(model: Model, sample: Any) -> StartCost | None:
    """Return the cost of starting a model; None for code of the user and for inputs that are no array."""
    if model.user_code or not isinstance(sample, np.ndarray):
        return None
    return measure_start(model.spec, sample)


def _teacher_flops(student: Model, teacher: Model, flops: int | None) -> tuple[int | None, int | None]:
    """Return the operations of the teacher for the labels of a student: computed once, and beside each epoch."""
    run = student.run
    if run is None or run.labels is None or run.metrics is None or flops is None:
        return None, None
    batch_size = run.recipe.get("batch_size")
    if run.labels.teacher_digest != teacher.digest or not isinstance(batch_size, int):
        return None, None
    return flops * run.data.held_out.trained_rows, flops * run.metrics.steps * batch_size


def _compare_languages(
    models: Sequence[Model], source: Source, split: str | None, *, group_seeds: bool
) -> list[ComparedModel]:
    """Return a row per language model, or per group of runs; the value is the perplexity."""
    measured = rows_to_measure(source, [model.run for model in models if model.run is not None], split)
    figures = compare_text(models, source, measured.rows)
    hashed, sample = hashed_keys(source)[measured.rows], source.inputs(measured.rows[:1])
    rows = []
    for indices in _groups(models, group_seeds=group_seeds):
        values = [figures[index].perplexity for index in indices]
        row = _row([models[index] for index in indices], values, sample, measured, hashed)
        speed = row.rows_per_second * float(sample.lengths.sum())
        text = replace(mean_of([figures[index] for index in indices]), tokens_per_second=speed)
        reference = figures[0].perplexity
        retention = row.value / reference if reference else None
        rows.append(replace(row, metric="perplexity", retention=retention, text=text))
    return rows


def rows_to_measure(source: Source, runs: Sequence[RunRecord], split: str | None) -> MeasuredRows:
    """Return the rows that measure models honestly.

    Rows of the split ``test``, or else of all splits but ``train``; without splits all rows. Of these, only rows that
    every run held out, if the data holds rows that the run was trained on.

    Args:
        source: The data.
        runs: Descriptions of the runs that are compared.
        split: Name of the split to measure on; None: as above.

    Raises:
        InvalidArgument: There is no such split.
        InvalidData: No rows are left.
    """
    if split is not None:
        return MeasuredRows(source.split(split), f"split {split}")
    others = [TEST] if TEST in source.splits() else [name for name in source.splits() if name != TRAIN]
    rows, name = source.split(None), "all rows"
    if others:
        rows, name = np.sort(np.concatenate([source.split(other) for other in others])), f"split {', '.join(others)}"
    hashed = hashed_keys(source)
    for run in runs:
        rule = run.data.held_out
        if rule.rule == "keys" and trained_share(rule, hashed[rows]) > 0:
            rows, name = np.intersect1d(rows, held_out_rows(rule, source)), "rows that the runs held out"
    if len(rows) == 0:
        raise InvalidData(
            f"{source.spec}: no rows to measure on, got only rows that the runs were trained on; expected others. "
            "Name other data with data="
        )
    return MeasuredRows(rows, name)


def _with_classes_of(model: Model, source: Source) -> Source:
    """Return the data with hard labels numbered as the model's run numbered them, by name."""
    if model.run is None or source.columns.label is None:
        return source
    return source.with_class_names(model.run.data.class_names)


def _row(
    group: list[Model],
    values: list[float],
    sample: Any,
    measured: MeasuredRows,
    hashed: NDArray[np.uint64],
) -> ComparedModel:
    first, load_average = group[0], os.getloadavg()[0]
    cost = measure_cost(first, sample)
    labels = first.run.labels if first.run is not None else None
    value = statistics.mean(values)
    return ComparedModel(
        name=_common_name([model.spec for model in group]),
        metric="",
        value=value,
        spread=statistics.stdev(values) if len(values) > 1 else None,
        runs=len(values),
        retention=None,
        parameters=cost.parameters,
        flops=cost.flops,
        latency_ms=cost.latency_ms,
        latency_p95_ms=cost.latency_p95_ms,
        latency_p99_ms=cost.latency_p99_ms,
        rows_per_second=cost.rows_per_second,
        bytes=cost.bytes,
        label_bytes_per_row=None if labels is None else labels.bytes_per_row,
        trained_on=_trained_on(first),
        hard_labels=_hard_labels(first),
        measured_on=measured.name,
        measured_rows=len(measured.rows),
        load_average=load_average,
        trained_share=max(trained_share(m.run.data.held_out, hashed) if m.run is not None else 0.0 for m in group),
    )


def _trained_on(model: Model) -> str | None:
    """Return ``hard labels``, the encodings of the soft ones, or ``live teacher``; None for a model without a run."""
    if model.run is None:
        return None
    labels = model.run.labels
    if labels is None:
        return "hard labels"
    return ", ".join(labels.encodings.values()) or "live teacher"


def _groups(models: Sequence[Model], *, group_seeds: bool) -> list[list[int]]:
    """Return the indices of the models of each row; without ``group_seeds``, each model has a row of its own."""
    groups: dict[str, list[int]] = {}
    for index, model in enumerate(models):
        groups.setdefault((_name_without_seed(model) if group_seeds else None) or str(index), []).append(index)
    return list(groups.values())


def _hard_labels(model: Model) -> int | None:
    """Return the number of hard labels of a run, 0 if it used none; None for all, or for a model without a run."""
    if model.run is None:
        return None
    alpha = model.run.recipe.get("alpha")
    by_head = alpha if isinstance(alpha, Mapping) else {"*": alpha}
    is_soft = all(by_head.get(head, by_head.get("*")) == 1 for head in model.heads)
    if model.run.labels is not None and (model.run.data.hard_labels is None or is_soft):
        return 0
    count = model.run.recipe.get("hard_labels")
    return count if isinstance(count, int) else None


def _name_without_seed(model: Model) -> str | None:
    """Return a name for everything that decided a run but its seed; None for a model without a run."""
    if model.run is None:
        return None
    recipe = {name: value for name, value in model.run.recipe.items() if name != "seed"}
    # The initial weights of a network of the user depend on the seed.
    unseeded = replace(model.run, recipe=recipe, model=replace(model.run.model, initial=None))
    return canonical_json.digest(unseeded.causes())


def _common_name(specs: list[str]) -> str:
    """Return ``run:student-*`` for ``run:student-0`` and ``run:student-1``."""
    if len(specs) == 1:
        return specs[0]
    length = next((i for i, letters in enumerate(zip(*specs, strict=False)) if len(set(letters)) > 1), len(specs[0]))
    return f"{specs[0][:length]}*"
