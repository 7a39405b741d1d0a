"""Models side by side: quality kept, parameters, FLOPs, latency, size, bytes of labels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.models import Model, as_tensor, measure
from softlabels.sources import Source
from softlabels.training.evaluation import accuracy
from softlabels.training.recipe import identity


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """One row of a comparison.

    Attributes:
        name: the MODEL, or what the MODELs of a group have in common.
        metric: what ``value`` is.
        value: mean over the runs.
        spread: standard deviation over the runs; None for one run.
        runs: how many.
        retention: value over that of the first row.
        parameters: trainable numbers.
        flops: of one forward pass.
        latency_ms: median of a forward pass at batch 1 on one CPU thread.
        bytes: of the weights file.
        label_bytes_per_row: bytes a row of the labels it was trained from; None without.
        trained_on: ``hard labels``, or the encoding of the soft labels.
        hard_labels: how many hard labels it knew; None: all, or not a run of ours.
    """

    name: str
    metric: str
    value: float
    spread: float | None
    runs: int
    retention: float
    parameters: int
    flops: int
    latency_ms: float
    bytes: int
    label_bytes_per_row: float | None
    trained_on: str | None
    hard_labels: int | None

    def to_json(self) -> dict[str, Any]:
        """As ``compare --json`` prints it."""
        return asdict(self)


def compare(
    specs: Sequence[str], source: Source, *, split: str | None = None, group_seeds: bool = True
) -> list[ComparedModel]:
    """Measure models on the same labelled rows; the first is what the others are compared with.

    Args:
        specs: MODEL specifications.
        source: labelled data.
        split: rows whose split column says so; None: ``test`` where there is one, else all.
        group_seeds: make one row of runs that differ in their seed alone.

    Raises:
        InvalidArgument: no models, or models of another number of classes than the data shows.
        InvalidData: no labelled rows.
    """
    if not specs:
        raise InvalidArgument("name at least one model to compare")
    rows = source.split(split if split is not None else "test" if "test" in source.splits() else None)
    sample = source.inputs(rows[:1])
    groups: dict[str, list[Model]] = {}
    for number, spec in enumerate(specs):
        model = models.load(spec, sample=sample).to("cpu")
        if source.classes is not None and model.classes < source.classes:
            raise InvalidArgument(
                f"{spec} has {model.classes} classes, but {source.spec} shows {source.classes}: it is of another task"
            )
        name = _without_seed(model) if group_seeds else None
        groups.setdefault(name or str(number), []).append(model)
    values = {name: [accuracy(model, source, rows) for model in group] for name, group in groups.items()}
    reference = statistics.mean(next(iter(values.values())))
    return [_row(group, values[name], reference, sample) for name, group in groups.items()]


def _row(group: list[Model], values: list[float], reference: float, sample: np.ndarray[Any, Any]) -> ComparedModel:
    first = group[0]
    cost = measure(first, as_tensor(sample))
    run = first.run or {}
    labels = run.get("labels")
    value = statistics.mean(values)
    return ComparedModel(
        name=_common_name([model.spec for model in group]),
        metric="accuracy",
        value=value,
        spread=statistics.stdev(values) if len(values) > 1 else None,
        runs=len(values),
        retention=value / reference if reference else float("nan"),
        parameters=cost.parameters,
        flops=cost.flops,
        latency_ms=cost.latency_ms,
        bytes=cost.bytes,
        label_bytes_per_row=labels.get("bytes_per_row") if labels else None,
        trained_on=_trained_on(first),
        hard_labels=run.get("recipe", {}).get("hard_labels"),
    )


def _trained_on(model: Model) -> str | None:
    """``hard labels``, the encodings of the soft ones, or ``live teacher``; None for what is no run of ours."""
    if model.run is None:
        return None
    labels = model.run.get("labels")
    if labels is None:
        return "hard labels"
    return ", ".join(labels["encodings"].values()) if "encodings" in labels else "live teacher"


def _without_seed(model: Model) -> str | None:
    """Names what a run was told but for its seed; None for what is no run of ours."""
    if model.run is None:
        return None
    told: dict[str, Any] = {name: model.run.get(name) for name in ("kind", "model", "recipe", "data", "labels")}
    told["recipe"] = {name: value for name, value in model.run.get("recipe", {}).items() if name != "seed"}
    told["model"] = {name: value for name, value in model.run.get("model", {}).items() if name != "digest"}
    return identity(told)


def _common_name(specs: list[str]) -> str:
    """``run:student-0``, ``run:student-1`` to ``run:student-*``."""
    if len(specs) == 1:
        return specs[0]
    length = next((i for i, letters in enumerate(zip(*specs, strict=False)) if len(set(letters)) > 1), len(specs[0]))
    return f"{specs[0][:length]}*"
