"""Antialiased resizing of images, for the preprocessing of models and for augmented views."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional


def resample(images: Tensor, size: tuple[int, int], mode: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """Return images at another size, with antialiasing.

    Args:
        images: (B, C, H, W) float32.
        size: Height and width of the result, in pixels.
        mode: Filter.

    Example:
        >>> import torch
        >>> resample(torch.rand(2, 3, 8, 6), (4, 1)).shape
        torch.Size([2, 3, 4, 1])
    """
    # torch 2.13 does not resize rows if the result has one column. A transposed image has one row, and is resized.
    if size[1] == 1 < size[0]:
        return functional.interpolate(images.transpose(2, 3), size=size[::-1], mode=mode, antialias=True).transpose(
            2, 3
        )
    return functional.interpolate(images, size=size, mode=mode, antialias=True)
