"""Digests that name a model.

A digest is BLAKE3 over everything that decides the outputs and that can be read: configuration, weights, buffers and,
for code of the user, its source text. ``Model.digest_covers`` lists the parts in words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor, nn

from softlabels.errors import InvalidArgument


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that decide the outputs of a network, by name.

    Args:
        module: The network.

    Returns:
        Parameters, buffers (also those that are not persistent), and tensors of the extra state.
    """
    return state_of(module) | dict(module.named_buffers())


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the state of a network, which a weights file holds, by name.

    Args:
        module: The network.
    """
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def is_initialized(module: nn.Module) -> bool:
    """Return True if all parameters have a shape; those of lazy layers have none before the first batch.

    Args:
        module: The network.
    """
    return not any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors_of(module).values())


def digest_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], sources: Mapping[str, str] | None = None
) -> str:
    """Return the digest of a model.

    Args:
        config: Configuration as JSON values.
        tensors: Tensors by name.
        sources: Source texts by qualified name.

    Returns:
        BLAKE3, 64 hexadecimal digits.

    Raises:
        InvalidArgument: The values of a tensor cannot be read, e.g. on the meta device.

    Example:
        >>> digest_of({}, {"w": torch.zeros(2)}) == digest_of({}, {"w": torch.ones(2)})
        False
    """
    hasher = blake3(b"softlabels model 2\0")
    hasher.update(json.dumps(dict(config), sort_keys=True, separators=(",", ":")).encode())
    for name, text in sorted((sources or {}).items()):
        hasher.update(f"\0source {name}\0{len(text)}\0{text}".encode(errors="surrogatepass"))
    for name in sorted(tensors):
        try:
            tensor = tensors[name].detach().cpu().contiguous()
            data = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
        except (NotImplementedError, RuntimeError, TypeError) as error:
            raise InvalidArgument(
                f"tensor {name!r} of the model: the values cannot be read, got {type(error).__name__}: {error}; "
                "expected a dense tensor. Load the weights before passing the model"
            ) from error
        hasher.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        hasher.update(data)
    return str(hasher.hexdigest())
