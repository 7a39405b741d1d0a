"""Networks that are to be trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.models import InputStatistics, Model, OutputHead
from softlabels.models.building import config_of
from softlabels.models.copied_layers import copy_layers
from softlabels.models.hidden_states import HiddenStates
from softlabels.models.kind import ModelSpec
from softlabels.models.kinds import kinds
from softlabels.models.loading import check_sample
from softlabels.models.loading import load as load_model
from softlabels.models.spec import kind_of
from softlabels.models.standardize import Standardize
from softlabels.sources import Source
from softlabels.training.recipe import Recipe
from softlabels.training.run_data import Prepared

STATISTICS_ROWS = 4096
"""Training rows, spread evenly, whose mean and deviation standardise the inputs."""


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """A model that is to be trained.

    Attributes:
        model: The model; its heads are the ones to learn.
        start: Digest of the trained model whose weights it starts from; None if it starts from scratch.
    """

    model: Model
    start: str | None = None


def new_model(
    student: str | nn.Module,
    prepared: Prepared,
    heads: Mapping[str, OutputHead],
    recipe: Recipe,
    init_from: str | None = None,
) -> NewModel:
    """Return the model to train, with those of the heads that it has.

    Args:
        student: MODEL specification of a kind that can be trained, or a network, which is copied.
        prepared: Data of the run.
        heads: Outputs by name.
        recipe: Options of the run; its seed decides the initial weights.
        init_from: MODEL specification of a model whose layers the student starts with; None: none.

    Raises:
        InvalidArgument: The kind cannot be trained, its sizes are not those of ``init_from``, it cannot take these
            inputs, or has other heads or classes.
        DataNotFound: There is no such run.
        RunCorrupt: The run is damaged.
    """
    heads = dict(sorted(heads.items()))  # as run.json lists them, from which the network is built again
    if isinstance(student, str) and kind_of(student).name == "run":
        if init_from is not None:
            raise InvalidArgument(f"init_from: {student} has weights already, got {init_from!r}; expected none")
        return _continued(student, prepared, heads)
    model = _fresh(student, prepared, heads, recipe)
    if init_from is not None:
        source = load_model(init_from)
        own = model.module.network if isinstance(model.module, HiddenStates) else model.module
        copy_layers(own, source.module, subject=f"student {student}")
        return NewModel(model=model, start=source.digest)
    return NewModel(model=_with_own_heads(model, prepared) if model.user_code and len(heads) > 1 else model)


def _continued(student: str, prepared: Prepared, heads: Mapping[str, OutputHead]) -> NewModel:
    """Return the model of a run, whose training continues."""
    model = load_model(student)
    check_sample(model, prepared.source.inputs(prepared.train[:1]))
    if model.run is None or model.user_code:
        raise InvalidArgument(f"MODEL {student!r}: cannot be trained further, got code of the user; expected run:DIR")
    learned = {name: head for name, head in model.heads.items() if name in heads}
    if not learned:
        raise InvalidArgument(
            f"student: {student} has no head of the labels, got {', '.join(model.heads)}; expected one of "
            f"{', '.join(heads)}"
        )
    for name, head in learned.items():
        if head != heads[name]:
            raise InvalidArgument(
                f"student: head {name!r} of {student} differs from the labels, got {head}; expected {heads[name]}"
            )
    return NewModel(model=replace(model, spec=model.run.model.spec, run=None, path=None), start=model.digest)


def _with_own_heads(model: Model, prepared: Prepared) -> Model:
    """Return a network of the user with those heads that its outputs for one row have."""
    rows = prepared.source.inputs(prepared.train[:1])
    with torch.random.fork_rng(devices=[]):
        outputs = replace(model, heads={}).predict(rows)
    learned = {name: head for name, head in model.heads.items() if name in outputs}
    if not learned:
        raise InvalidArgument(
            f"student: {model.spec} has no head of the labels, got {', '.join(outputs)}; expected one of "
            f"{', '.join(model.heads)}. Return a mapping from heads to outputs"
        )
    config = {**model.config, "heads": {name: head.to_json() for name, head in learned.items()}}
    return replace(model, heads=learned, config=config)


def _fresh(student: str | nn.Module, prepared: Prepared, heads: Mapping[str, OutputHead], recipe: Recipe) -> Model:
    """Return a model with initial weights."""
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
