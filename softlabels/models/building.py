"""Built-in networks with initial weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from softlabels.errors import InvalidArgument
from softlabels.models.heads import OutputHead
from softlabels.models.kind import Kind, ModelSpec
from softlabels.models.kinds import kinds
from softlabels.models.model import Model
from softlabels.models.spec import kind_of, parse
from softlabels.models.standardize import InputStatistics, set_statistics

TRAINING_COPIES = 4
"""Tensors the size of the weights that training needs: weights, gradients and two moments."""


def build(
    spec: str,
    *,
    input_shape: tuple[int, ...],
    heads: Mapping[str, OutputHead],
    seed: int = 0,
    statistics: InputStatistics | None = None,
) -> Model:
    """Return a model with freshly initialised weights.

    Args:
        spec: MODEL specification of a kind that can be trained, e.g. ``cnn:width=64,depth=3``.
        input_shape: Shape of one input.
        heads: Outputs by name.
        seed: Seed of the initial weights. torch's global random state is restored.
        statistics: Mean and standard deviation of the training inputs; None: inputs are not standardised.

    Raises:
        InvalidArgument: The kind cannot be trained from scratch, the network cannot take these inputs, or it does not
            fit into memory.

    Example:
        >>> model = build("mlp:width=8", input_shape=(4,), heads={"logits": OutputHead(classes=3)})
        >>> model.predict(torch.zeros(2, 4))["logits"].shape
        torch.Size([2, 3])
    """
    kind, parsed = kind_of(spec), parse(spec)
    if kind.build is None:
        trainable = ", ".join(other.form for other in kinds().values() if other.build is not None)
        raise InvalidArgument(f"MODEL {spec!r}: cannot be trained from scratch; expected {trainable}")
    if not kind.runs_user_code:
        check_memory(kind, parsed, input_shape, heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = kind.build(parsed, input_shape, heads)
    if statistics is not None:
        set_statistics(module, statistics)
    described = kind.describe(module, heads) if kind.describe is not None else None
    return Model(
        spec=str(parsed),
        module=module,
        heads=dict(heads),
        input_shape=input_shape,
        config=described or config_of(kind, parsed, input_shape, heads),
        user_code=kind.runs_user_code,
    )


def config_of(
    kind: Kind, spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]
) -> dict[str, Any]:
    """Return the configuration that rebuilds a network, as JSON values.

    Args:
        kind: Kind of the network.
        spec: Its specification.
        input_shape: Shape of one input.
        heads: Outputs by name.
    """
    return {
        "kind": kind.name,
        "version": kind.version,
        "options": dict(spec.options),
        "input_shape": list(input_shape),
        "heads": {name: head.to_json() for name, head in heads.items()},
    }


def build_without_weights(
    kind: Kind, spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]
) -> nn.Module:
    """Return a built-in network on the meta device, which allocates no weights.

    Args:
        kind: A built-in kind that can be trained.
        spec: Its specification.
        input_shape: Shape of one input.
        heads: Outputs by name.

    Raises:
        InvalidArgument: The network cannot take these inputs.
    """
    if kind.build is None:
        raise InvalidArgument(
            f"MODEL kind {kind.name!r}: has no network of its own; expected a kind that can be trained"
        )
    with meta_device():
        return kind.build(spec, input_shape, heads)


@contextlib.contextmanager
def meta_device() -> Iterator[None]:
    """Make tensors on the meta device, which allocates no memory, and leave out the initial weights of networks.

    Example:
        >>> with meta_device():
        ...     network = nn.Linear(10**6, 10**6)
        >>> network.weight.is_meta
        True
    """
    with torch.device("meta"), _WithoutInitialWeights():
        yield


class _WithoutInitialWeights(TorchFunctionMode):
    """The functions of ``torch.nn.init`` return their tensor: without memory, some of them import torch's compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return [*args, *(kwargs or {}).values()][0]
        return func(*args, **(kwargs or {}))


def check_memory(kind: Kind, spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]) -> None:
    """Raise InvalidArgument if training a network needs more memory than this machine has.

    Args:
        kind: A built-in kind that can be trained.
        spec: Its specification.
        input_shape: Shape of one input.
        heads: Outputs by name.

    Raises:
        InvalidArgument: The weights, gradients and moments do not fit into memory.
    """
    try:
        network = build_without_weights(kind, spec, input_shape, heads)
        size = TRAINING_COPIES * sum(tensor.nbytes for tensor in network.state_dict().values())
    except (RuntimeError, OverflowError) as error:  # a size that torch cannot even represent
        raise InvalidArgument(f"MODEL {str(spec)!r}: too large, got {error}; use a smaller width or depth") from error
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: too large for inputs of shape {input_shape}, got {size / 2**30:,.1f} GiB for "
            f"weights, gradients and moments; expected at most the {memory / 2**30:,.1f} GiB of this machine. "
            "Use a smaller width or depth"
        )
