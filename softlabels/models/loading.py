"""One way in for models: a specification, a Model, a network or any callable becomes a Model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from torch import nn

from softlabels.errors import InvalidArgument
from softlabels.labels import HeadKind
from softlabels.models.declared import Declared
from softlabels.models.digest import digest_of, is_initialized
from softlabels.models.heads import OutputHead
from softlabels.models.kinds import kinds
from softlabels.models.model import Model, count_rows
from softlabels.models.preprocessing import Preprocess, Preprocessing, PreprocessingOptions
from softlabels.models.spec import kind_of, parse
from softlabels.models.user_code import CodeIdentity, identify
from softlabels.sources import Ragged

ModelLike: TypeAlias = Model | str | nn.Module | Callable[..., Any]
"""Everything that ``as_model`` takes."""


def as_model(
    model: ModelLike,
    *,
    sample: Any = None,
    heads: Mapping[str, OutputHead | HeadKind] | None = None,
    preprocessing: Preprocessing | PreprocessingOptions | None = None,
    spec: str | None = None,
) -> Model:
    """Return anything that predicts as a Model.

    Args:
        model: MODEL specification, Model, ``torch.nn.Module``, or any callable from a batch of inputs to outputs. The
            modes and weights of a network are not changed.
        sample: Some inputs, (n, *input_shape). A network or callable is run on them once, to infer its heads; other
            models are checked against their shape.
        heads: Outputs by name, or their kinds such as ``pixels``; None: the attribute ``heads`` of the model, or
            inferred from the sample.
        preprocessing: Preprocessing of images before a network, function or exported file; None: that of the model.
        spec: MODEL specification that messages and digests name; None: the name of the class or function.

    Raises:
        InvalidArgument: The specification is invalid, a sample is needed, or its shape is not the model's.
        InvalidLogits: The model returns something other than outputs.
        ModelFailed: The model raised an error.
        DataNotFound: There is no such run.
        RunCorrupt: The run is damaged.

    Example:
        >>> import torch
        >>> as_model(torch.nn.Linear(4, 3), sample=torch.zeros(2, 4)).heads
        {'logits': OutputHead(classes=3, kind='classes', shape=())}
    """
    kinds_by_name = {name: head if isinstance(head, str) else head.kind for name, head in (heads or {}).items()}
    declared = Declared(kinds=kinds_by_name, preprocessing=preprocessing)
    if isinstance(model, str):
        return load(model, sample=sample, declared=declared)
    if isinstance(model, Model):
        if declared:
            raise InvalidArgument(
                f"{model.spec}: a loaded model has its heads and preprocessing already; leave out heads and "
                "preprocessing"
            )
        check_sample(model, sample)
        return model
    if isinstance(model, type) or not callable(model):
        raise InvalidArgument(
            f"model: unsupported type, got {model!r}; expected a MODEL specification, a torch.nn.Module or a callable "
            "from a batch of inputs to logits"
        )
    outputs = {name: head for name, head in (heads or {}).items() if isinstance(head, OutputHead)}
    if len(outputs) == len(kinds_by_name):
        declared = replace(declared, kinds={})  # complete heads say their kinds themselves
    return _wrap(model, sample=sample, heads=outputs, declared=declared, spec=spec or f"python:{_name(model)}")


def load(spec: str, *, sample: Any = None, declared: Declared | None = None) -> Model:
    """Return a model that exists.

    Args:
        spec: MODEL specification, e.g. ``run:DIR`` or ``python:MODULE:NAME``.
        sample: Some inputs, (n, *input_shape); code of the user is run on them once, to infer its heads.
        declared: Heads and preprocessing that the caller declares; None: nothing.

    Raises:
        InvalidArgument: The kind has no weights of its own, or the sample has another shape than the model's inputs.
        DataNotFound: There is no such run.
        RunCorrupt: The run is damaged.
        InvalidLogits: Code of the user returns something other than outputs.
        ModelFailed: Code of the user raised an error.
    """
    kind, parsed = kind_of(spec), parse(spec)
    if kind.load is None:
        loadable = ", ".join(other.form for other in kinds().values() if other.load is not None)
        raise InvalidArgument(f"MODEL {spec!r}: an architecture without weights; expected {loadable}. Train it first")
    if declared and not kind.declares:
        takers = ", ".join(other.form for other in kinds().values() if other.declares)
        raise InvalidArgument(
            f"MODEL {spec!r}: has its heads and preprocessing in its weights, got others; expected them for {takers} "
            "only. Leave them out"
        )
    model = kind.load(parsed if declared is None else replace(parsed, declared=declared), sample)
    check_sample(model, sample)
    return model


def needs_sample(spec: str) -> bool:
    """Return True if a model cannot be loaded without a sample of inputs.

    Args:
        spec: MODEL specification.

    Raises:
        InvalidArgument: The kind is unknown.

    Example:
        >>> needs_sample("run:teacher"), needs_sample("onnx:teacher.onnx")
        (False, True)
    """
    kind = kind_of(spec)
    return kind.runs_user_code or (kind.needs_sample is not None and kind.needs_sample(spec.partition(":")[2]))


def check_sample(model: Model, sample: Any) -> None:
    """Raise InvalidArgument if inputs have another shape than a model takes.

    Args:
        model: The model.
        sample: Some inputs, (n, *input_shape); None, or anything without a shape, is not checked.

    Raises:
        InvalidArgument: The shapes differ; names both.
    """
    shape = getattr(sample, "shape", None)
    if shape is not None and tuple(shape[1:]) != model.input_shape:
        raise InvalidArgument(
            f"{model.spec}: the data has another input shape, got {tuple(shape[1:])}; expected {model.input_shape}"
        )


def _wrap(
    function: Callable[..., Any], *, sample: Any, heads: Mapping[str, OutputHead], declared: Declared, spec: str
) -> Model:
    outputs = heads or _declared_heads(function)
    if sample is None:
        raise InvalidArgument(f"{spec}: a sample of inputs is needed to run the model, got None; expected (n, *shape)")
    module = function if isinstance(function, nn.Module) else _Function(function)
    preprocessing = declared.preprocessing_over(None)
    if preprocessing is not None:
        module = nn.Sequential(Preprocess(preprocessing), module)
    parameter = next(module.parameters(), None)
    model = Model(
        spec=spec,
        module=module,
        heads=outputs,
        input_shape=_shape(sample),
        user_code=True,
        preprocessing=preprocessing,
    )
    if parameter is not None:
        model = replace(model, device=parameter.device)
    # Before the first batch, which may change buffers, except for lazy layers, which have no weights until then.
    identity = _identify(function, spec, preprocessing) if is_initialized(module) else None
    if not outputs:
        model = replace(model, heads=model.infer_heads(sample, declared.kinds))
    return replace(model, identity=identity or _identify(function, spec, preprocessing))


def _identify(function: Callable[..., Any], spec: str, preprocessing: Preprocessing | None) -> CodeIdentity:
    """Return the identity of code of the user, and of the preprocessing before it."""
    identity = identify(function, spec)
    if preprocessing is None:
        return identity
    digest = digest_of({"code": identity.digest, "preprocessing": preprocessing.to_json()}, {})
    return CodeIdentity(digest, ("preprocessing", *identity.covers))


def _declared_heads(function: object) -> Mapping[str, OutputHead]:
    heads = getattr(function, "heads", None)
    if isinstance(heads, Mapping) and heads and all(isinstance(head, OutputHead) for head in heads.values()):
        return dict(heads)
    return {}


def _shape(sample: Any) -> tuple[int, ...]:
    """Return the shape of one input; () for structures and ragged inputs."""
    count_rows(sample)
    if isinstance(sample, Ragged) or not hasattr(sample, "shape"):
        return ()
    return tuple(int(side) for side in sample.shape[1:])


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


class _Function(nn.Module):
    """A plain callable as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Any) -> Any:
        """Return the value of the function."""
        return self.function(inputs)
