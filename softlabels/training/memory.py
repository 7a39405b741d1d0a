"""Gradient checkpointing: activations of layers are computed again in the backward pass, which saves their memory."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from softlabels.errors import InvalidArgument
from softlabels.models import Model


def checkpoint_layers(model: Model) -> None:
    """Compute the activations of each block of a network again in the backward pass; values stay the same.

    Args:
        model: A model of the kinds ``gpt`` or ``hf``, or a network with a list ``blocks`` of layers.

    Raises:
        InvalidArgument: The network has no such layers.

    Example:
        >>> from softlabels.models import OutputHead, build
        >>> heads = {"logits": OutputHead(classes=9, kind="tokens", shape=(None,))}
        >>> checkpoint_layers(build("gpt:layers=1,width=8,heads=2", input_shape=(), heads=heads))
    """
    module: Any = model.module
    network: Any = getattr(module, "network", None)
    if callable(getattr(network, "gradient_checkpointing_enable", None)):
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise InvalidArgument(
            f"gradient_checkpointing: {model.spec} has no layers to compute again; expected gpt, hf, or a network with "
            "a torch.nn.ModuleList `blocks`"
        )
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
