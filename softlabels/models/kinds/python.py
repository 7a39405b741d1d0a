"""``python:MODULE:NAME``: code of the user.

As a teacher, NAME is a ``torch.nn.Module``, a function from a batch of inputs to outputs, or a class or function
without arguments that returns one of these. As a student, NAME is a ``torch.nn.Module`` or a class or function that
returns one; arguments called ``input_shape``, ``heads`` and ``classes`` are passed if it has them. A run of such a
student does not import its code; ``python:MODULE:NAME@RUN`` names both.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softlabels.errors import InvalidArgument, RunCorrupt, SoftLabelsError
from softlabels.models.failures import describe_error
from softlabels.models.heads import OutputHead
from softlabels.models.kind import Kind, ModelSpec
from softlabels.models.kinds.run import load_run
from softlabels.models.loading import as_model
from softlabels.models.model import Model
from softlabels.models.run_directory import read_run

FORM = "python:MODULE:NAME"


def load(spec: ModelSpec, sample: Any) -> Model:
    """Return the user's network or function as a model.

    Args:
        spec: Specification of the model.
        sample: Some inputs, (n, *input_shape); None if there are none.

    Raises:
        InvalidArgument: The name cannot be imported, or is not callable.
        RunCorrupt: The run that holds the weights is damaged.
    """
    code, _, run = spec.text.partition("@")
    if run:
        return _load_trained(ModelSpec(spec.kind, {}, code), Path(run))
    value = import_name(spec)
    if isinstance(value, type) or _is_factory(value):
        value = _construct(spec, value, {})
    if not callable(value):
        raise InvalidArgument(f"MODEL {str(spec)!r}: cannot be called on a batch, got {type(value).__name__}; "
                              "expected a torch.nn.Module, or a function from inputs to logits")  # fmt: skip
    declared = spec.declared
    return as_model(
        value, sample=sample, heads=declared.kinds or None, preprocessing=declared.preprocessing, spec=str(spec)
    )


def _load_trained(spec: ModelSpec, folder: Path) -> Model:
    """Return the user's network with the weights of a run."""
    record = read_run(folder)
    if record.model.initial is None:
        raise InvalidArgument(
            f"MODEL {spec}@{folder}: a run of {record.model.spec}, got code for it; expected run:{folder}"
        )
    try:
        heads = {str(name): OutputHead.from_json(head) for name, head in record.model.config["heads"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise RunCorrupt(f"{folder}: the run is damaged, got {error!r}; expected its heads. Copy it again") from error
    return load_run(folder, build(spec, record.data.shape, heads))


def build(spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]) -> nn.Module:
    """Return a network of the user to be trained; a network that exists is copied.

    Args:
        spec: Specification of the network.
        input_shape: Shape of one input.
        heads: Outputs by name.

    Raises:
        InvalidArgument: The name cannot be imported, or returns no network.
    """
    random_state = torch.get_rng_state()
    value = import_name(spec)
    torch.set_rng_state(random_state)  # importing may draw random numbers, and only the first import does
    if isinstance(value, nn.Module):
        return copy.deepcopy(value)
    values = {"input_shape": input_shape, "heads": dict(heads), "classes": next(iter(heads.values())).classes}
    module = _construct(spec, value, values) if callable(value) else value
    if not isinstance(module, nn.Module):
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: cannot be trained, got {type(module).__name__}; expected a torch.nn.Module, or a "
            "class or function (input_shape, heads) that returns one"
        )
    return module


def import_name(spec: ModelSpec) -> Any:
    """Return the object that MODULE:NAME names; the current directory is searched first.

    Args:
        spec: Specification of the kind ``python``.

    Raises:
        InvalidArgument: The specification names a file, or importing failed.
    """
    module_name, _, attribute = spec.text.partition(":")
    if not attribute:
        raise InvalidArgument(f"MODEL {str(spec)!r}: the name inside the module is missing; expected {FORM}")
    if module_name.endswith(".py") or not all(name.isidentifier() for name in module_name.split(".")):
        stem = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: not a module name, got {module_name!r}; expected {FORM}. Name the module, not its "
            f"file, e.g. python:{stem}:{attribute}, and run the command in the folder it is imported from"
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as python -m does, so that a module may stand beside the data
    try:
        value = importlib.import_module(module_name)
        for name in attribute.split("."):
            value = getattr(value, name)
    except SoftLabelsError:
        raise
    except Exception as error:
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: cannot be imported, got {describe_error(error)}; expected {FORM}. Run the command "
            "in the folder that holds the module, and correct the error"
        ) from error
    return value


def _construct(spec: ModelSpec, factory: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call a class or function with those of ``values`` that it takes."""
    required = _names(factory, required=True)
    unknown = [name for name in required if name not in values]
    if unknown:
        takes = ", ".join(values) or "no arguments"
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: needs arguments, got {', '.join(unknown)}; expected {takes}. Write a function that "
            "passes the others and returns the model"
        )
    accepted = {name: values[name] for name in (*required, *_names(factory, required=False)) if name in values}
    try:
        return factory(**accepted)
    except SoftLabelsError:
        raise
    except Exception as error:
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: cannot be constructed, got {describe_error(error)}; expected a model"
        ) from error


def _is_factory(value: object) -> bool:
    """Return True if a function can be called without a batch of inputs."""
    if not inspect.isroutine(value):
        return False
    parameters = _parameters(value)
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return parameters is not None and not any(
        parameter.kind is parameter.VAR_POSITIONAL
        or (parameter.kind in positional and parameter.default is parameter.empty)
        for parameter in parameters
    )


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of a callable; None for compiled code without a signature."""
    try:
        return list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        return None


def _names(factory: Callable[..., Any], *, required: bool) -> list[str]:
    """Return the names of the parameters with or without a default."""
    return [
        parameter.name
        for parameter in _parameters(factory) or []
        if parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        and (parameter.default is parameter.empty) == required
    ]


KIND = Kind(name="python", form=FORM, build=build, load=load, runs_user_code=True, declares=True)
