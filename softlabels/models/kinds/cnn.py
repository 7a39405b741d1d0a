"""``cnn``: a residual network for images, from 8x8 digits to photographs.

Features have ``width`` channels throughout and are averaged over all positions before the heads. For large images a
stem with a stride lowers the resolution first. Separable convolutions take an eighth of the operations at width 64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from softlabels.errors import InvalidArgument
from softlabels.models.heads import OutputHead
from softlabels.models.kind import Kind, ModelSpec, Option
from softlabels.models.projections import Projections
from softlabels.models.standardize import Standardize


def convolution(width: int, *, separable: bool) -> nn.Module:
    """Return a 3x3 convolution without bias; a separable one is a filter per channel and a 1x1 convolution.

    Args:
        width: Channels of the input and the output.
        separable: If True, return the separable form (Howard et al. 2017).

    Example:
        >>> [sum(p.numel() for p in convolution(32, separable=separable).parameters()) for separable in (False, True)]
        [9216, 1312]
    """
    if not separable:
        return nn.Conv2d(width, width, 3, padding=1, bias=False)
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.Conv2d(width, width, 1, bias=False)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm, added to their input.

    Args:
        width: Channels of the input and the output.
        separable: If True, the convolutions are separable.
    """

    def __init__(self, width: int, *, separable: bool = False) -> None:
        super().__init__()
        groups = math.gcd(width, 8)
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.GELU(),
            convolution(width, separable=separable),
            nn.GroupNorm(groups, width),
            nn.GELU(),
            convolution(width, separable=separable),
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
        stem: Stride of the first convolution, whose kernel has 2 * stem - 1 pixels each way, at least 3.
        separable: If True, the convolutions of the blocks are separable.

    Raises:
        InvalidArgument: The inputs are not images, or are smaller than the stride.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        heads: Mapping[str, OutputHead],
        *,
        width: int,
        depth: int,
        stem: int = 1,
        separable: bool = False,
    ) -> None:
        super().__init__()
        if len(input_shape) not in {2, 3}:
            raise InvalidArgument(
                f"MODEL cnn: the inputs are not images, got shape {input_shape}; expected (H, W) or (H, W, C). "
                "Use mlp for other shapes"
            )
        if min(input_shape[:2]) < stem:
            raise InvalidArgument(
                f"MODEL cnn: the stem is too coarse for inputs of shape {input_shape}, got a stride of {stem}; "
                f"expected at most {min(input_shape[:2])}. Use a smaller stem"
            )
        height, breadth = (math.ceil(side / stem) for side in input_shape[:2])
        kernel = max(3, 2 * stem - 1)
        channels = input_shape[2] if len(input_shape) == 3 else 1
        self.standardize = Standardize(input_shape)
        blocks: list[nn.Module] = [nn.Conv2d(channels, width, kernel, stride=stem, padding=kernel // 2)]
        for index in range(depth):
            if index and min(height, breadth) >= 4:
                blocks.append(nn.AvgPool2d(2))
                height, breadth = height // 2, breadth // 2
            blocks.append(Residual(width, separable=separable))
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
    options = KIND.defaults() | dict(spec.options)
    return CNN(
        input_shape,
        heads,
        width=int(options["width"]),
        depth=int(options["depth"]),
        stem=int(options["stem"]),
        separable=bool(options["separable"]),
    )


KIND = Kind(
    name="cnn",
    form="cnn:width=32,depth=3,stem=1,separable=0",
    options={
        "width": Option(default=32, maximum=8_192),
        "depth": Option(default=3, maximum=256),
        "stem": Option(default=1, maximum=16, omit_default=True),
        "separable": Option(default=0, minimum=0, maximum=1, omit_default=True),
    },
    build=build,
)
