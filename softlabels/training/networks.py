"""Networks that are to be trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.models import InputStatistics, Model, OutputHead
from softlabels.models.building import config_of
from softlabels.models.kind import ModelSpec
from softlabels.models.kinds import kinds
from softlabels.models.spec import kind_of
from softlabels.models.standardize import Standardize
from softlabels.sources import Source
from softlabels.training.inputs import Prepared
from softlabels.training.recipe import Recipe

STATISTICS_ROWS = 4096
"""Training rows, spread evenly, whose mean and deviation standardise the inputs."""


def new_model(student: str | nn.Module, prepared: Prepared, heads: Mapping[str, OutputHead], recipe: Recipe) -> Model:
    """Return the model to train.

    Args:
        student: MODEL specification of a kind that can be trained, or a network, which is copied.
        prepared: Data of the run.
        heads: Outputs by name.
        recipe: Options of the run; its seed decides the initial weights.

    Raises:
        InvalidArgument: The kind cannot be trained from scratch, or cannot take these inputs.
    """
    rows = np.unique(np.linspace(0, len(prepared.train) - 1, num=STATISTICS_ROWS).astype(np.int64))
    user_code = not isinstance(student, str) or kind_of(student).runs_user_code
    sample = prepared.source.inputs(prepared.train[rows[:1] if user_code else rows])
    shape = tuple(sample.shape[1:]) if isinstance(sample, np.ndarray | Tensor) else ()
    if isinstance(student, str):
        is_array = isinstance(sample, np.ndarray | Tensor)
        statistics = InputStatistics.of(np.asarray(sample)) if is_array and not user_code else None
        model = models.build(student, input_shape=shape, heads=heads, seed=recipe.seed, statistics=statistics)
        if not is_array and any(isinstance(layer, Standardize) for layer in model.module.modules()):
            raise InvalidArgument(
                f"MODEL {student!r}: cannot take these inputs, got {type(sample).__name__}; expected an array. Use a "
                "network of your own: python:MODULE:NAME"
            )
        return _with_tokenizer(model, prepared.source)
    if not isinstance(student, nn.Module):
        raise InvalidArgument(
            f"student: cannot be trained, got {type(student).__name__}; expected a MODEL specification or a "
            "torch.nn.Module"
        )
    python = kinds()["python"]
    return Model(
        spec=f"python:{type(student).__qualname__}",
        module=copy.deepcopy(student),
        heads=dict(heads),
        input_shape=shape,
        config=config_of(python, ModelSpec(python.name), shape, heads),
        user_code=True,
    )


def _with_tokenizer(model: Model, source: Source) -> Model:
    """Return a model of text with the tokenizer of the text, whose digest is a part of its configuration."""
    tokenizer = getattr(source, "tokenizer", None)
    if tokenizer is None:
        return model
    return replace(model, tokenizer=tokenizer, config={**model.config, "tokenizer": tokenizer.digest})
