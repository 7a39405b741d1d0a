"""Built-in architectures: small, plain, and complete with their preprocessing.

Inputs come as they are stored, (B, *shape) of any numeric dtype. Each network begins by standardising them with the
mean and standard deviation of its training data, kept as buffers: so preprocessing travels with the weights, and the
digest covers it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from softlabels.errors import InvalidArgument

ARCHITECTURES: dict[str, dict[str, int | float]] = {
    "mlp": {"width": 128, "depth": 2},
    "cnn": {"width": 32, "depth": 3},
}
"""Options of each architecture, with defaults."""


class Standardize(nn.Module):
    """(inputs - mean) / std in float32, with one mean and one standard deviation for all values."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std) if std > 0 else 1.0))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *shape) of any dtype to float32."""
        return (inputs.float() - self.mean) / self.std


class MLP(nn.Module):
    """Fully connected layers with GELU: ``depth`` hidden ones of ``width``."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.standardize = Standardize()
        sizes = [math.prod(input_shape), *[width] * depth]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *shape) to (B, classes)."""
        return self.layers(self.standardize(inputs).flatten(1))  # type: ignore[no-any-return]  # modules are untyped


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = math.gcd(width, 8)
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        return x + self.layers(x)  # type: ignore[no-any-return]  # modules are untyped


class CNN(nn.Module):
    """A small residual network: ``depth`` blocks, halving the resolution after the first while 4 pixels remain.

    Images are (H, W) or (H, W, C), channels last, as files hold them. Group norm instead of batch norm: what it says of
    one image does not depend on the batch around it.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        if len(input_shape) not in {2, 3}:
            raise InvalidArgument(f"cnn looks at images of shape (H, W) or (H, W, C); these inputs have {input_shape}")
        height, breadth = input_shape[:2]
        channels = input_shape[2] if len(input_shape) == 3 else 1
        self.standardize = Standardize()
        blocks: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for index in range(depth):
            if index and min(height, breadth) >= 4:
                blocks.append(nn.AvgPool2d(2))
                height, breadth = height // 2, breadth // 2
            blocks.append(Residual(width))
        self.blocks = nn.Sequential(*blocks, nn.GroupNorm(math.gcd(width, 8), width), nn.GELU())
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, H, W) or (B, H, W, C) to (B, classes)."""
        images = self.standardize(inputs)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return self.head(self.blocks(images).mean(dim=(2, 3)))  # type: ignore[no-any-return]  # modules are untyped


BUILDERS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "cnn": CNN}


def build_module(
    kind: str, options: Mapping[str, int | float], *, input_shape: tuple[int, ...], classes: int
) -> nn.Module:
    """A freshly initialised network; weights come from torch's current random state."""
    return BUILDERS[kind](input_shape, classes, **options)
