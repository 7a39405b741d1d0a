"""Models side by side: quality retained, parameters, FLOPs, latency, size, bytes of labels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.models import Model, ModelLike, as_model, measure
from softlabels.models.run_record import RunRecord
from softlabels.sources import Source
from softlabels.sources.request import DataOptions
from softlabels.store.format import canonical_json
from softlabels.text.options import TextOptions
from softlabels.training.evaluation import accuracy, class_head
from softlabels.training.inputs import DataLike, open_data
from softlabels.training.language_comparison import ComparedText, compare_text, language_models, mean_of, open_text
from softlabels.training.splits import TEST, TRAIN, hashed_keys, held_out_rows, trained_share


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """One row of a comparison.

    Attributes:
        name: MODEL specification, or the common part of those of a group.
        metric: Name of the measure in ``value``.
        value: Mean over the runs.
        spread: Standard deviation over the runs; None for one run.
        runs: Number of runs.
        retention: Value divided by that of the first row; None if that is 0.
        parameters: Number of trainable values.
        flops: Floating-point operations of one forward pass.
        latency_ms: Median time of a forward pass at batch 1 on one CPU thread, in milliseconds.
        bytes: Size of the weights file in bytes.
        label_bytes_per_row: Size of the labels it was trained from, in bytes per row; None without labels.
        trained_on: ``hard labels``, ``live teacher`` or the encoding of the soft labels; None for models without a run.
        hard_labels: Number of hard labels it was trained with; None: all, or a model without a run.
        measured_on: Rows that all models were measured on, in words.
        measured_rows: Number of these rows.
        trained_share: Estimated share of the model's training rows that are among them; more than 0 is too optimistic.
        text: Quality on text of a model that predicts the next token; None for other models.
    """

    name: str
    metric: str
    value: float
    spread: float | None
    runs: int
    retention: float | None
    parameters: int
    flops: int
    latency_ms: float
    bytes: int
    label_bytes_per_row: float | None
    trained_on: str | None
    hard_labels: int | None
    measured_on: str
    measured_rows: int
    trained_share: float
    text: ComparedText | None = None

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


def compare(
    models: Sequence[ModelLike],
    data: DataLike,
    *,
    split: str | None = None,
    group_seeds: bool = True,
    text: TextOptions | None = None,
    **columns: Unpack[DataOptions],
) -> list[ComparedModel]:
    """Measure models on the same labelled rows.

    Args:
        models: MODEL specifications, or anything ``as_model`` takes. The others are compared with the first.
        data: Labelled data.
        split: Name of the split to measure on; None: the rows that the runs held out.
        group_seeds: If True, runs that differ in their seed alone are one row.
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
    if not models:
        raise InvalidArgument("models: got none; expected at least one to measure")
    languages = language_models(models)
    if languages is not None:
        return _compare_languages(
            languages, open_text(languages, data, text, **columns), split, group_seeds=group_seeds
        )
    source = open_data(data, **columns, text=text)
    sample = source.inputs(np.zeros(1, np.int64))
    compared = [as_model(model, sample=sample).to("cpu") for model in models]
    measured = rows_to_measure(source, [model.run for model in compared if model.run is not None], split)
    groups: dict[str, list[Model]] = {}
    for index, model in enumerate(compared):
        _check_classes(model, _with_classes_of(model, source))
        name = _name_without_seed(model) if group_seeds else None
        groups.setdefault(name or str(index), []).append(model)
    values = {
        name: [accuracy(m, _with_classes_of(m, source), measured.rows) for m in group] for name, group in groups.items()
    }
    reference = statistics.mean(next(iter(values.values())))
    hashed = hashed_keys(source)[measured.rows]
    return [_row(group, values[name], reference, sample, measured, hashed) for name, group in groups.items()]


def _compare_languages(
    models: Sequence[Model], source: Source, split: str | None, *, group_seeds: bool
) -> list[ComparedModel]:
    """Return a row per language model, or per group of runs; the value is the perplexity."""
    measured = rows_to_measure(source, [model.run for model in models if model.run is not None], split)
    figures = compare_text(models, source, measured.rows)
    groups: dict[str, list[int]] = {}
    for index, model in enumerate(models):
        groups.setdefault((_name_without_seed(model) if group_seeds else None) or str(index), []).append(index)
    hashed, sample = hashed_keys(source)[measured.rows], source.inputs(measured.rows[:1])
    rows = []
    for indices in groups.values():
        values = [figures[index].perplexity for index in indices]
        row = _row([models[index] for index in indices], values, figures[0].perplexity, sample, measured, hashed)
        rows.append(replace(row, metric="perplexity", text=mean_of([figures[index] for index in indices])))
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
            "Name other data with --data"
        )
    return MeasuredRows(rows, name)


def _with_classes_of(model: Model, source: Source) -> Source:
    """Return the data with hard labels numbered as the model's run numbered them, by name."""
    if model.run is None or source.columns.label is None:
        return source
    return source.with_class_names(model.run.data.class_names)


def _check_classes(model: Model, source: Source) -> None:
    classes = model.heads[class_head(model)].classes
    if source.classes is not None and classes < source.classes:
        raise InvalidArgument(
            f"{model.spec}: fewer classes than the data shows, got {classes}; expected at least the {source.classes} "
            f"of {source.spec}. The model is of another task"
        )


def _row(
    group: list[Model],
    values: list[float],
    reference: float,
    sample: Any,
    measured: MeasuredRows,
    hashed: NDArray[np.uint64],
) -> ComparedModel:
    first = group[0]
    cost = measure(first, sample)
    labels = first.run.labels if first.run is not None else None
    hard_labels = first.run.recipe.get("hard_labels") if first.run is not None else None
    value = statistics.mean(values)
    return ComparedModel(
        name=_common_name([model.spec for model in group]),
        metric="accuracy",
        value=value,
        spread=statistics.stdev(values) if len(values) > 1 else None,
        runs=len(values),
        retention=value / reference if reference else None,
        parameters=cost.parameters,
        flops=cost.flops,
        latency_ms=cost.latency_ms,
        bytes=cost.bytes,
        label_bytes_per_row=None if labels is None else labels.bytes_per_row,
        trained_on=_trained_on(first),
        hard_labels=hard_labels if isinstance(hard_labels, int) else None,
        measured_on=measured.name,
        measured_rows=len(measured.rows),
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
