"""Quality of models on the same rows, head by head: beside the ground truth, and beside a reference model.

Figures are sums over batches, so memory does not grow with the number of rows. Heads of classes have accuracy, top-5
and F1, pixels the mean intersection over union, regressions the mean absolute error in their unit, and embeddings their
cosine to the reference and the share of rows whose nearest neighbour is the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from softlabels.errors import InvalidArgument, InvalidData, InvalidLogits
from softlabels.labels import DISTRIBUTIONS
from softlabels.models import DEFAULT_HEAD, Model
from softlabels.sources import Source
from softlabels.sources.protocol import Target
from softlabels.training.evaluation import class_head
from softlabels.training.head_quality import ERRORS, METRICS, HeadQuality, Tally

BATCH_VALUES = 2**24
"""Values of one output of a batch, at most."""
MAX_BATCH_ROWS = 1024


def evaluate(
    models: Sequence[Model], sources: Sequence[Source], rows: NDArray[np.int64]
) -> list[dict[str, HeadQuality]]:
    """Return the quality of each model, by head.

    Args:
        models: Models of the same inputs; the first one is the reference.
        sources: The data as each model numbers its classes.
        rows: Row numbers, (n,).

    Returns:
        For each model its heads that have ground truth, or that the reference has too.

    Raises:
        InvalidData: A model has no head that can be measured.
        InvalidLogits: Outputs are not finite; names the first row.

    Example:
        >>> import torch
        >>> from softlabels.models import as_model
        >>> from softlabels.sources import as_source
        >>> source = as_source((np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0])))
        >>> model = as_model(torch.nn.Identity(), sample=source.inputs(np.arange(1)))
        >>> evaluate([model], [source], np.arange(2))[0]["logits"].accuracy
        0.5
    """
    tallies = [_tallies(model, source, models[0]) for model, source in zip(models, sources, strict=True)]
    step = _batch_rows(models)
    for start in range(0, len(rows), step):
        batch = rows[start : start + step]
        reference: Mapping[str, Tensor] = {}
        for index, (model, source) in enumerate(zip(models, sources, strict=True)):
            outputs = _predicted(model, source, batch)
            reference = outputs if index == 0 else reference
            for name, tally in tallies[index].items():
                truth = None if tally.target is None else _truth(source, tally.target, batch)
                # Without ground truth, the reference is measured beside itself.
                compares = index > 0 or (truth is None and len(models) > 1)
                tally.add(outputs[name], truth, reference.get(tally.reference_name) if compares else None)
    results = [
        {name: quality for name, tally in tallies_of_model.items() if (quality := tally.quality()) is not None}
        for tallies_of_model in tallies
    ]
    for model, result in zip(models, results, strict=True):
        if not result:
            raise InvalidData(
                f"{sources[0].spec}: no hard labels to measure {model.spec}, got {len(rows)} rows without one for "
                f"{', '.join(model.heads)}; expected labelled rows"
            )
    return [
        _with_retention(result, results[0], models[0], model) for model, result in zip(models, results, strict=True)
    ]


def mean_of(qualities: Sequence[Mapping[str, HeadQuality]]) -> dict[str, HeadQuality]:
    """Return the means over several runs of one model, with the spread of the main measure.

    Args:
        qualities: Quality of each run, by head.
    """
    if len(qualities) == 1:
        return dict(qualities[0])
    means = {}
    for name, first in qualities[0].items():
        runs = [by_head[name] for by_head in qualities]
        numbers: dict[str, Any] = {}
        for item in fields(first):
            values = [getattr(run, item.name) for run in runs]
            if all(isinstance(value, float) for value in values):
                numbers[item.name] = statistics.mean(values)
        means[name] = replace(first, **numbers, spread=statistics.stdev(run.value for run in runs))
    return means


def _tallies(model: Model, source: Source, reference: Model) -> dict[str, Tally]:
    """Return a tally for each head of a model that can be measured."""
    targets = source.targets
    has_classes = any(head.kind == "classes" for head in model.heads.values())
    unnamed = DEFAULT_HEAD in targets and DEFAULT_HEAD not in model.heads and has_classes
    single = class_head(model) if unnamed else None
    tallies = {}
    for name, head in model.heads.items():
        target = DEFAULT_HEAD if name == single else name
        truth = targets.get(target)
        if truth is not None:
            _check_target(model, name, target, truth)
        shared = name if name in reference.heads else ""
        if single == name and not shared:
            shared = class_head(reference)
        if truth is not None or (shared and reference.heads[shared].kind == head.kind):
            tallies[name] = Tally(
                head, None if truth is None else target, shared, None if truth is None else truth.unit
            )
    return tallies


def _check_target(model: Model, name: str, target: str, truth: Target) -> None:
    """Raise unless a head can be compared with its ground truth: the kind, the width, and enough classes."""
    head = model.heads[name]
    axes = len(head.shape) == len(truth.shape) and (truth.kind != "regression" or head.classes == truth.classes)
    if head.kind != truth.kind or not axes:
        raise InvalidData(
            f"{model.spec}: head {name!r} is no match for the target {target!r}, got {head.kind} of shape "
            f"{(*head.shape, head.classes)}; expected {truth.kind} of shape {(*truth.shape, truth.classes)}. Name "
            "another target with targets="
        )
    if truth.kind != "regression" and head.classes < truth.classes:
        raise InvalidArgument(
            f"{model.spec}: fewer classes than the data shows, got {head.classes}; expected at least the "
            f"{truth.classes} of the target {target!r}. The model is of another task"
        )


def _truth(source: Source, target: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    return np.asarray(source.target(target, rows))


def _predicted(model: Model, source: Source, rows: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return the outputs for some rows on the CPU, once they are sure to be finite."""
    outputs = {name: output.cpu() for name, output in model.predict(source.inputs(rows)).items()}
    for name, output in outputs.items():
        values = output.reshape(len(rows), -1, output.shape[-1])
        invalid = values.isnan().any(-1) | values.isposinf().any(-1)
        if model.heads[name].kind in DISTRIBUTIONS:
            invalid |= ~values.isfinite().any(-1)  # -inf rules a class out, which is fine for all but one
        else:
            invalid |= values.isneginf().any(-1)
        bad = invalid.any(-1)
        if bad.any():
            raise InvalidLogits(
                f"{model.spec}: outputs are not finite, got NaN or infinity in {int(bad.sum())} of {len(rows)} rows, "
                f"first in row {int(rows[int(bad.int().argmax())])}; expected logits. Training has diverged, or the "
                "weights are damaged"
            )
    return outputs


def _batch_rows(models: Sequence[Model]) -> int:
    sizes = [
        math.prod([*(side or 1 for side in head.shape), head.classes]) for m in models for head in m.heads.values()
    ]
    return max(1, min(MAX_BATCH_ROWS, BATCH_VALUES // max(sizes)))


def _with_retention(
    result: dict[str, HeadQuality], first: Mapping[str, HeadQuality], reference: Model, model: Model
) -> dict[str, HeadQuality]:
    """Return the qualities with the share of the first model's that each retains."""
    retained = {}
    for name, quality in result.items():
        other = first.get(name) or (next(iter(first.values())) if len(first) == len(result) == 1 else None)
        retention = None
        if other is not None and other.metric == quality.metric:
            is_error = quality.metric in {METRICS[kind] for kind in ERRORS}
            above, below = (other.value, quality.value) if is_error else (quality.value, other.value)
            retention = above / below if below else None
        retained[name] = replace(quality, retention=retention)
    return retained
