"""``cnn``: a small residual network for images."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from softlabels.errors import InvalidArgument
from softlabels.models.heads import OutputHead
from softlabels.models.kind import Kind, ModelSpec, Option
from softlabels.models.projections import Projections
from softlabels.models.standardize import Standardize


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm, added to their input.

    Args:
        width: Channels of the input and the output.
    """

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
        """Return (B, width, H, W).

        Args:
            x: (B, width, H, W) float32.
        """
        return x + self.layers(x)  # type: ignore[no-any-return]  # modules are untyped


class CNN(nn.Module):
    """Residual blocks that halve the resolution after the first while 4 pixels remain.

    Group norm instead of batch norm: the output for one image does not depend on the batch around it.

    Args:
        input_shape: (H, W) or (H, W, C), channels last.
        heads: Outputs to compute.
        width: Channels.
        depth: Number of blocks.

    Raises:
        InvalidArgument: The inputs are not images.
    """

    def __init__(
        self, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead], *, width: int, depth: int
    ) -> None:
        super().__init__()
        if len(input_shape) not in {2, 3}:
            raise InvalidArgument(
                f"MODEL cnn: the inputs are not images, got shape {input_shape}; expected (H, W) or (H, W, C). "
                "Use mlp for other shapes"
            )
        height, breadth = input_shape[:2]
        channels = input_shape[2] if len(input_shape) == 3 else 1
        self.standardize = Standardize(input_shape)
        blocks: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for index in range(depth):
            if index and min(height, breadth) >= 4:
                blocks.append(nn.AvgPool2d(2))
                height, breadth = height // 2, breadth // 2
            blocks.append(Residual(width))
        self.blocks = nn.Sequential(*blocks, nn.GroupNorm(math.gcd(width, 8), width), nn.GELU())
        self.heads = Projections(width, heads)

    def forward(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the outputs: a tensor for one head, a dictionary for several.

        Args:
            inputs: (B, H, W) or (B, H, W, C) of any numeric dtype.
        """
        images = self.standardize(inputs)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        outputs: Tensor | dict[str, Tensor] = self.heads(self.blocks(images).mean(dim=(2, 3)))
        return outputs


def build(spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]) -> nn.Module:
    """Return a freshly initialised network."""
    return CNN(input_shape, heads, width=int(spec.options["width"]), depth=int(spec.options["depth"]))


KIND = Kind(
    name="cnn",
    form="cnn:width=32,depth=3",
    options={"width": Option(default=32, maximum=8_192), "depth": Option(default=3, maximum=256)},
    build=build,
)
