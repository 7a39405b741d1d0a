"""Transforms of one image, each a function of the image and of uniform random numbers.

An image is (C, H, W) float32 with values from 0 to 255 and C of 1 or 3. A transform takes ``draws`` uniform numbers in
[0, 1) and nothing else that is random. Elementwise arithmetic is in float32; every mean is an exact sum of integers, so
that pixels do not depend on batch size, threads or the order of a reduction. A policy rounds to uint8 at the end.

Positions and sizes are fractions of the image, so that a view has the same content at every resolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabels.resampling import resample

Uniforms = NDArray[np.float64]
Options = Mapping[str, float]

LUMA = (299, 587, 114)
"""Weights of red, green and blue in luma, in thousandths (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A kind of transform.

    Attributes:
        name: Name in a policy.
        draws: Number of uniform numbers it takes.
        apply: Function of image (C, H, W), size or None, draws (n,) and options to the new image.
        mask: The same for class numbers, (1, H, W) int64, in which -1 is ignored; None: classes stay where they are.
        moves: If True, ``apply`` only moves pixels, and also takes uint8.
        mix: Function of a view, the view of another example, draws (n,) and options to the mixed view; None: only one
            image takes part. The first draw decides if a view is mixed (option ``p``), the second one with which.
        options: Options with their defaults.
        bounds: Lowest and highest value of each option.
    """

    name: str
    draws: int
    apply: Callable[[Tensor, int | None, Uniforms, Options], Tensor]
    mask: Callable[[Tensor, int | None, Uniforms, Options], Tensor] | None = None
    moves: bool = False
    mix: Callable[[Tensor, Tensor, Uniforms, Options], Tensor] | None = None
    options: Options = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def crop_box(draws: Uniforms, options: Options, aspect: float) -> tuple[float, float, float, float]:
    """Return the box of a random resized crop as fractions (top, left, height, width).

    The area is uniform in [scale, 1] of the image and the aspect ratio of the box is log-uniform in [1/ratio, ratio]
    (Szegedy et al. 2015). A box that does not fit is shrunk, keeping its aspect ratio, in place of another draw.

    Args:
        draws: Four uniform numbers: area, aspect ratio, vertical and horizontal position.
        options: ``scale`` in (0, 1] and ``ratio`` of at least 1.
        aspect: Width over height of the image in pixels.
    """
    area = options["scale"] + (1 - options["scale"]) * draws[0]
    ratio = math.exp((2 * draws[1] - 1) * math.log(options["ratio"]))
    height, width = math.sqrt(area * aspect / ratio), math.sqrt(area * ratio / aspect)
    shrink = 1 / max(height, width, 1.0)
    height, width = height * shrink, width * shrink
    return draws[2] * (1 - height), draws[3] * (1 - width), height, width


def as_float(image: Tensor) -> Tensor:
    """Return an image as float32 in (C, H, W) order in memory: arithmetic depends on the layout."""
    return image.to(torch.float32, memory_format=torch.contiguous_format).contiguous()


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Return the image at another size, bilinear with antialiasing; unchanged where it has that size."""
    if image.shape[1:] == (height, width):
        return image
    return resample(image[None], (height, width))[0]


def nearest_places(length: int, size: int) -> Tensor:
    """Return the pixel that each of ``size`` pixels is taken from, by nearest neighbour at pixel centres, (size,).

    Args:
        length: Pixels of the original.
        size: Pixels of the result.

    Example:
        >>> nearest_places(4, 2).tolist()
        [1, 3]
    """
    return ((2 * torch.arange(size) + 1) * length // (2 * size)).clamp(max=length - 1)


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Return class numbers, (1, H, W), at another size, by nearest neighbour."""
    _, own_height, own_width = mask.shape
    rows, columns = nearest_places(own_height, height), nearest_places(own_width, width)
    return mask[:, rows[:, None], columns[None]]


def crop(image: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """Return the pixels inside a box of fractions, at least one each way; borders are rounded to pixels."""
    _, height, width = image.shape
    y, x = min(round(box[0] * height), height - 1), min(round(box[1] * width), width - 1)
    y_end, x_end = round((box[0] + box[2]) * height), round((box[1] + box[3]) * width)
    return image[:, y : max(y_end, y + 1), x : max(x_end, x + 1)]


def center_crop(image: Tensor, size: int) -> Tensor:
    """Return the largest central square at ``size`` pixels."""
    return resize(as_float(central_square(image)), size, size)


def central_square(image: Tensor) -> Tensor:
    """Return the largest central square of an image or a mask."""
    _, height, width = image.shape
    side = min(height, width)
    y, x = (height - side) // 2, (width - side) // 2
    return image[:, y : y + side, x : x + side]


def luma(image: Tensor) -> Tensor:
    """Return the luma of an image, (1, H, W), as whole numbers; the image itself where it has one channel.

    It is exact: sums of whole numbers below 2^24, and a quotient at least 0.0005 away from the next whole number.
    """
    if len(image) == 1:
        return image.round()
    red, green, blue = image.round()
    weighted = (red * LUMA[0]).add_(green.mul_(LUMA[1])).add_(blue.mul_(LUMA[2]))
    gray: Tensor = weighted.add_(500.5).div_(1000).floor_()
    return gray[None]


def blend(first: Tensor, second: Tensor | float, weight: float) -> Tensor:
    """Return weight * first + (1 - weight) * second, clamped to [0, 255]."""
    return (first * weight).add_(second * (1 - weight)).clamp_(0, 255)


def brightness(image: Tensor, factor: float) -> Tensor:
    """Return the image blended with black."""
    return blend(image, 0.0, factor)


def contrast(image: Tensor, factor: float) -> Tensor:
    """Return the image blended with its mean luma, which is an exact sum of integers."""
    gray = luma(image)
    mean = float(gray.sum(dtype=torch.float64)) / gray.numel()
    return blend(image, mean, factor)


def saturation(image: Tensor, factor: float) -> Tensor:
    """Return the image blended with its luma."""
    return image if len(image) == 1 else blend(image, luma(image), factor)


def rotate_hue(image: Tensor, turns: float) -> Tensor:
    """Return the image with its hue rotated by ``turns`` of a full circle, by rotation about the gray axis in RGB."""
    if len(image) == 1 or turns == 0:
        return image
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    same, after, before = (1 + 2 * cos) / 3, (1 - cos) / 3 - sin / math.sqrt(3), (1 - cos) / 3 + sin / math.sqrt(3)
    red, green, blue = image
    rotated = torch.empty_like(image)
    for channel, weights in zip(
        rotated, ((same, after, before), (before, same, after), (after, before, same)), strict=True
    ):
        torch.mul(red, weights[0], out=channel).add_(green * weights[1]).add_(blue * weights[2])
    return rotated.clamp_(0, 255)


def affine(image: Tensor, matrix: Sequence[float], fill: float = 127.5) -> Tensor:
    """Return the image resampled by an affine map of output to input coordinates in [-1, 1], bilinear.

    Args:
        image: (C, H, W).
        matrix: Six numbers, the rows of a 2 x 3 matrix on (x, y, 1).
        fill: Value outside the image.
    """
    theta = torch.tensor(matrix, dtype=torch.float32).reshape(1, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, [1, *image.shape], align_corners=False)
    shifted = torch.nn.functional.grid_sample(image[None] - fill, grid, mode="bilinear", align_corners=False)
    return (shifted[0] + fill).clamp(0, 255)


def affine_mask(mask: Tensor, matrix: Sequence[float]) -> Tensor:
    """Return class numbers, (1, H, W), resampled as ``affine`` does, by nearest neighbour; -1 outside the image."""
    theta = torch.tensor(matrix, dtype=torch.float32).reshape(1, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, [1, *mask.shape], align_corners=False)
    shifted = (mask[None] + 1).float()  # zeros are filled in outside; class numbers are exact as float32
    sampled = torch.nn.functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)
    return sampled[0].to(torch.int64) - 1


def _random_crop(image: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    _, height, width = image.shape
    box = crop_box(draws, options, width / height)
    return resize(as_float(crop(image, box)), size or height, size or width)


def _random_crop_mask(mask: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    _, height, width = mask.shape
    box = crop_box(draws, options, width / height)
    return resize_mask(crop(mask, box), size or height, size or width)


def _flip(image: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    return image.flip(2) if draws[0] < options["p"] else image


def _color(image: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    factors = 1 + (2 * draws[:3] - 1) * [options["brightness"], options["contrast"], options["saturation"]]
    image = brightness(image, float(factors[0]))
    image = contrast(image, float(factors[1]))
    image = saturation(image, float(factors[2]))
    return rotate_hue(image, float((2 * draws[3] - 1) * options["hue"]))


def _erase(image: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    return _erased(image, draws, options, 127.5)


def _erase_mask(mask: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    return _erased(mask, draws, options, -1)


def _erased(image: Tensor, draws: Uniforms, options: Options, fill: float) -> Tensor:
    if draws[0] >= options["p"]:
        return image
    _, height, width = image.shape
    area = options["low"] + (options["high"] - options["low"]) * draws[1]
    ratio = math.exp((2 * draws[2] - 1) * math.log(options["ratio"]))
    tall, wide = min(math.sqrt(area * ratio), 1.0), min(math.sqrt(area / ratio), 1.0)
    y, x = draws[3] * (1 - tall), draws[4] * (1 - wide)
    erased = image.clone()
    rows = slice(round(y * height), round((y + tall) * height))
    columns = slice(round(x * width), round((x + wide) * width))
    erased[:, rows, columns] = fill
    return erased


def _posterize(image: Tensor, strength: float) -> Tensor:
    step = float(2 ** round(4 * strength))
    return (image / step).floor() * step


def _matrices(strength: float, sign: float) -> tuple[tuple[float, ...], ...]:
    """Return the affine maps of RandAugment at a strength: rotation, two shears and two shifts."""
    angle = sign * strength * math.pi / 6
    cos, sin = math.cos(angle), math.sin(angle)
    shear, shift = sign * 0.3 * strength, sign * 0.9 * strength
    return (
        (cos, -sin, 0, sin, cos, 0),
        (1, shear, 0, 0, 1, 0),
        (1, 0, 0, shear, 1, 0),
        (1, 0, shift, 0, 1, 0),
        (1, 0, 0, 0, 1, shift),
    )


def _operations(strength: float, sign: float) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Return the operations of RandAugment at a strength from 0 to 1; ``sign`` is the direction where there are two."""
    factor = 1 + sign * 0.9 * strength
    return (
        lambda image: image,
        lambda image: brightness(image, factor),
        lambda image: contrast(image, factor),
        lambda image: saturation(image, factor),
        lambda image: _posterize(image, strength),
        lambda image: torch.where(image >= 256 * (1 - strength), 255 - image, image),
        *(functools.partial(affine, matrix=matrix) for matrix in _matrices(strength, sign)),
    )


MAX_OPERATIONS = 4
"""Operations that one RandAugment may apply."""


def _rand_augment(image: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    for i in range(int(options["n"])):
        operations = _operations(options["m"] / 10, 1.0 if draws[2 * i] < 0.5 else -1.0)
        image = operations[int(draws[2 * i + 1] * len(operations))](image)
    return image


def _rand_augment_mask(mask: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    for i in range(int(options["n"])):
        sign = 1.0 if draws[2 * i] < 0.5 else -1.0
        matrices = _matrices(options["m"] / 10, sign)
        count = len(_operations(options["m"] / 10, sign))
        place = int(draws[2 * i + 1] * count) - (count - len(matrices))
        mask = mask if place < 0 else affine_mask(mask, matrices[place])
    return mask


def _unchanged(image: Tensor, size: int | None, draws: Uniforms, options: Options) -> Tensor:
    return image


def _mixup(image: Tensor, partner: Tensor, draws: Uniforms, options: Options) -> Tensor:
    weight = options["low"] + (1 - options["low"]) * float(draws[2])
    return blend(image, partner, weight)


def _cutmix(image: Tensor, partner: Tensor, draws: Uniforms, options: Options) -> Tensor:
    side = math.sqrt((1 - options["low"]) * float(draws[2]))
    y, x = draws[3] * (1 - side), draws[4] * (1 - side)
    _, height, width = image.shape
    rows, columns = (
        slice(round(y * height), round((y + side) * height)),
        slice(round(x * width), round((x + side) * width)),
    )
    mixed = image.clone()
    mixed[:, rows, columns] = partner[:, rows, columns]
    return mixed


TRANSFORMS: Mapping[str, Transform] = {
    transform.name: transform
    for transform in (
        Transform(
            name="randcrop", draws=4, apply=_random_crop, mask=_random_crop_mask, moves=True,
            options={"scale": 0.08, "ratio": 4 / 3},
            bounds={"scale": (1e-3, 1.0), "ratio": (1.0, 10.0)},
        ),
        Transform(
            name="flip", draws=1, apply=_flip, mask=_flip, moves=True, options={"p": 0.5}, bounds={"p": (0.0, 1.0)},
        ),
        Transform(
            name="color", draws=4, apply=_color,
            options={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
            bounds={"brightness": (0.0, 1.0), "contrast": (0.0, 1.0), "saturation": (0.0, 1.0), "hue": (0.0, 0.5)},
        ),
        Transform(
            name="randaugment", draws=2 * MAX_OPERATIONS, apply=_rand_augment, mask=_rand_augment_mask,
            options={"n": 2, "m": 9},
            bounds={"n": (1, MAX_OPERATIONS), "m": (0.0, 10.0)},
        ),
        Transform(
            name="erase", draws=5, apply=_erase, mask=_erase_mask,
            options={"p": 0.25, "low": 0.02, "high": 0.33, "ratio": 3.3},
            bounds={"p": (0.0, 1.0), "low": (0.0, 1.0), "high": (0.0, 1.0), "ratio": (1.0, 10.0)},
        ),
        Transform(
            name="mixup", draws=3, apply=_unchanged, mix=_mixup, options={"p": 1.0, "low": 0.5},
            bounds={"p": (0.0, 1.0), "low": (0.0, 1.0)},
        ),
        Transform(
            name="cutmix", draws=5, apply=_unchanged, mix=_cutmix, options={"p": 1.0, "low": 0.5},
            bounds={"p": (0.0, 1.0), "low": (0.0, 1.0)},
        ),
    )
}  # fmt: skip
"""Transforms by name: random resized crop (Szegedy et al. 2015), horizontal flip, colour jitter, RandAugment (Cubuk et
al. 2020, with the operations above), random erasing (Zhong et al. 2020, with mid-gray), mixup (Zhang et al. 2018) and
CutMix (Yun et al. 2019). The share of the example in a mixed view is uniform in [low, 1]."""
