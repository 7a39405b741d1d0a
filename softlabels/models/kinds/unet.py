"""``unet``: a small U-Net (Ronneberger et al. 2015) for images, with heads per pixel and per image.

Residual blocks at ``depth`` resolutions, each half the one before; the decoder adds upsampled features to those of the
encoder. Channels are ``width`` at full resolution and grow by half per level. Two coordinate channels tell positions
apart (Liu et al. 2018), so that a head per image, such as a steering angle, can be read from the mean of the features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from softlabels.errors import InvalidArgument
from softlabels.models.heads import OutputHead
from softlabels.models.kind import Kind, ModelSpec, Option
from softlabels.models.kinds.cnn import Residual
from softlabels.models.projections import Projections
from softlabels.models.standardize import Standardize


def is_dense(head: OutputHead) -> bool:
    """Return True if a head has an output per pixel."""
    return len(head.shape) == 2


class Level(nn.Module):
    """One resolution of a U-Net: halve, widen and refine on the way down, and merge on the way up.

    Args:
        channels: Channels of the level above.
        width: Channels of this level.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(channels, width, 1), Residual(width))
        self.up = nn.Conv2d(width, channels, 1)
        self.merge = Residual(channels)

    def rise(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return the features of the level above, merged with those of this level.

        Args:
            coarse: (B, width, H', W') features of this level.
            fine: (B, channels, H, W) features of the level above on the way down.
        """
        raised = functional.interpolate(self.up(coarse), size=fine.shape[2:], mode="nearest")
        merged: Tensor = self.merge(fine + raised)
        return merged


class UNet(nn.Module):
    """Encoder and decoder with a 1x1 convolution per dense head and a linear layer per other head.

    Args:
        input_shape: (H, W) or (H, W, C), channels last.
        heads: Outputs to compute; heads with a shape of two axes are dense, at that resolution.
        width: Channels at full resolution.
        depth: Number of resolutions.

    Raises:
        InvalidArgument: The inputs are not images, or too small for so many resolutions.
    """

    def __init__(
        self, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead], *, width: int, depth: int
    ) -> None:
        super().__init__()
        if len(input_shape) not in {2, 3}:
            raise InvalidArgument(
                f"MODEL unet: the inputs are not images, got shape {input_shape}; expected (H, W) or (H, W, C). "
                "Use mlp for other shapes"
            )
        if min(input_shape[:2]) < 2 ** (depth - 1):
            raise InvalidArgument(
                f"MODEL unet: {depth} resolutions are too many for inputs of shape {input_shape}; expected at least "
                f"{2 ** (depth - 1)} pixels each way. Use a smaller depth"
            )
        channels = input_shape[2] if len(input_shape) == 3 else 1
        widths = [round(width * 1.5**level / 4) * 4 if level else width for level in range(depth)]
        self.standardize = Standardize(input_shape)
        self.stem = nn.Sequential(nn.Conv2d(channels + 2, width, 3, padding=1), Residual(width))
        self.levels = nn.ModuleList(Level(above, below) for above, below in pairwise(widths))
        self.dense = {name: head for name, head in heads.items() if is_dense(head)}
        self.norm = nn.Sequential(nn.GroupNorm(math.gcd(width, 8), width), nn.GELU())
        # By number: names of heads may contain dots, names of modules may not.
        self.dense_layers = nn.ModuleList(nn.Conv2d(width, head.classes, 1) for head in self.dense.values())
        pooled = {name: head for name, head in heads.items() if name not in self.dense}
        self.pooled = Projections(widths[-1], pooled) if pooled else None
        self._pooled_names = list(pooled)

    def forward(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the outputs: a tensor for one head, a dictionary for several.

        Args:
            inputs: (B, H, W) or (B, H, W, C) of any numeric dtype.
        """
        images = self.standardize(inputs)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        features = [self.stem(torch.cat([images, _coordinates(images)], dim=1))]
        for level in self.levels:
            features.append(level.down(features[-1]))  # type: ignore[operator]  # modules are untyped
        outputs: dict[str, Tensor] = {}
        if self.pooled is not None:
            pooled = self.pooled(features[-1].mean(dim=(2, 3)))
            outputs |= pooled if isinstance(pooled, dict) else {self._pooled_names[0]: pooled}
        if self.dense:
            x = features.pop()
            for level, fine in zip(reversed(list(self.levels)), reversed(features), strict=True):
                x = level.rise(x, fine)  # type: ignore[operator]  # modules are untyped
            x = self.norm(x)
            for (name, head), layer in zip(self.dense.items(), self.dense_layers, strict=True):
                outputs[name] = _at_resolution(layer(x), head).permute(0, 2, 3, 1)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def _coordinates(images: Tensor) -> Tensor:
    """Return two channels with the row and the column of each pixel, from -1 to 1, (B, 2, H, W)."""
    batch, _, height, width = images.shape
    rows = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)[None].expand(height, width)
    return torch.stack([rows, columns]).expand(batch, 2, height, width)


def _at_resolution(outputs: Tensor, head: OutputHead) -> Tensor:
    """Return (B, C, H, W) outputs at the resolution of the head: averaged or repeated where it differs."""
    height, width = (int(side or 1) for side in head.shape)
    if outputs.shape[2:] == (height, width):
        return outputs
    return functional.interpolate(outputs, size=(height, width), mode="area")


def build(spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]) -> nn.Module:
    """Return a freshly initialised network."""
    return UNet(input_shape, heads, width=int(spec.options["width"]), depth=int(spec.options["depth"]))


KIND = Kind(
    name="unet",
    form="unet:width=16,depth=4",
    options={"width": Option(default=16, maximum=4_096), "depth": Option(default=4, maximum=12)},
    build=build,
)
