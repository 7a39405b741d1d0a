"""Students that start with weights of their teacher: every n-th layer, the embedding and the output layer.

A student of 6 layers takes the layers 0, 2, 4, 7, 9 and 11 of a teacher of 12, as DistilBERT did (arXiv 1910.01108).
All other sizes must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from softlabels.errors import InvalidArgument

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
"""Number of the layer in the name of a weight: the first number between dots."""

SHOWN = 3


def copy_layers(student: nn.Module, teacher: nn.Module, *, subject: str) -> tuple[int, ...]:
    """Copy weights of a teacher into a student of the same architecture with fewer layers.

    Args:
        student: Network that is changed.
        teacher: Network that the weights are read from.
        subject: First words of messages.

    Returns:
        Layer of the teacher for each layer of the student.

    Raises:
        InvalidArgument: A weight of the student is not in the teacher, or has another shape there; names it.

    Example:
        >>> from softlabels.models import OutputHead, build
        >>> heads = {"logits": OutputHead(classes=9, kind="tokens", shape=(None,))}
        >>> networks = [build(f"gpt:layers={n},width=8,heads=2", input_shape=(), heads=heads).module for n in (2, 5)]
        >>> copy_layers(*networks, subject="student")
        (0, 4)
    """
    own, source = student.state_dict(), teacher.state_dict()
    count, available = _count(own), _count(source)
    layers = tuple(int(layer) for layer in np.rint(np.linspace(0, available - 1, count)))
    tensors = {name: source.get(_renamed(name, layers)) for name in own}
    differing = [name for name, tensor in tensors.items() if tensor is None or tensor.shape != own[name].shape]
    if count > available or differing:
        listed = ", ".join(f"{name} {_shapes(own[name], tensors[name])}" for name in differing[:SHOWN])
        raise InvalidArgument(
            f"{subject}: cannot start with the weights of its teacher, got {count} of {available} layers and other "
            f"weights {listed or 'none'}; expected the same architecture with at most as many layers. Choose equal "
            "width, heads and vocabulary, or leave out init_from="
        )
    with torch.no_grad():
        for name, tensor in own.items():
            copied = tensors[name]
            if copied is not None:
                tensor.copy_(copied)
    return layers


def _count(names: Iterable[str]) -> int:
    """Return the number of layers that names of weights show."""
    return max((int(match[0]) + 1 for name in names if (match := NUMBER.search(name))), default=0)


def _renamed(name: str, layers: tuple[int, ...]) -> str:
    """Return the name of the weight in the teacher."""
    return NUMBER.sub(lambda match: str(layers[int(match[0])]), name, count=1)


def _shapes(own: Tensor, other: Tensor | None) -> str:
    return f"({tuple(own.shape)} and {'no such weight' if other is None else tuple(other.shape)})"
