"""Preprocessing of images: from (B, H, W, C) pixels, as sources return them, to what a network takes.

The record is part of a teacher's digest and of a store's descriptor, because equal weights behind other preprocessing
give other labels. Images are resized, cropped, scaled, standardised and laid out, in this order. Resizing is
antialiased and agrees with Pillow to one level of 255, bicubic to two where no value is clipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Literal, Self, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from softlabels.errors import InvalidArgument
from softlabels.resampling import resample

Layout: TypeAlias = Literal["nchw", "nhwc"]
Fit: TypeAlias = Literal["crop", "stretch"]
Interpolation: TypeAlias = Literal["bilinear", "bicubic", "nearest"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_SIDE = 2**14
"""Largest side of an image in pixels."""
MAX_CHANNELS = 64


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Steps from the pixels of an image to the input of a network.

    Attributes:
        size: Height and width that the network takes, in pixels; None: those of the data.
        shorter: Shorter side before the central crop, in pixels; None: the least that covers ``size``.
        fit: ``crop`` resizes the shorter side and crops the centre, ``stretch`` resizes both sides.
        interpolation: Method of resizing.
        scale: Factor of the pixels, such as 1/255.
        mean: Mean of each channel after scaling; empty: 0. One value is for all channels.
        std: Standard deviation of each channel after scaling; empty: 1. One value is for all channels.
        layout: ``nchw`` for channels first, ``nhwc`` for channels last.

    Raises:
        InvalidArgument: A field is out of range.

    Example:
        >>> preprocessing = Preprocessing(size=(2, 2), scale=1 / 255)
        >>> preprocessing.apply(torch.full((1, 4, 6, 3), 255, dtype=torch.uint8)).shape
        torch.Size([1, 3, 2, 2])
    """

    size: tuple[int, int] | None = None
    shorter: int | None = None
    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout = "nchw"

    def __post_init__(self) -> None:
        sides = (*(self.size or ()), *(() if self.shorter is None else (self.shorter,)))
        if len(self.size or (0, 0)) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
            raise InvalidArgument(
                f"size of images: out of range, got {sides}; expected two sides of 1 to {MAX_SIDE} pixels"
            )
        for name, choices in (("fit", Fit), ("interpolation", Interpolation), ("layout", Layout)):
            if getattr(self, name) not in get_args(choices):
                raise InvalidArgument(
                    f"{name} of images: unknown, got {getattr(self, name)!r}; expected {' or '.join(get_args(choices))}"
                )
        numbers = (self.scale, *self.mean, *self.std)
        if not all(isinstance(number, int | float) and abs(number) < float("inf") for number in numbers):
            raise InvalidArgument(f"scale, mean and std of images: not finite, got {numbers}; expected numbers")
        if self.scale == 0 or any(value <= 0 for value in self.std):
            raise InvalidArgument(
                f"scale and std of images: out of range, got {self.scale} and {self.std}; expected a scale other than "
                "0 and deviations above 0"
            )
        if (
            len({len(values) for values in (self.mean, self.std) if len(values) > 1}) > 1
            or self.channels > MAX_CHANNELS
        ):
            raise InvalidArgument(
                f"mean and std of images: another number of channels, got {len(self.mean)} and {len(self.std)} values; "
                "expected one each, or one for each channel"
            )

    @property
    def channels(self) -> int:
        """The number of channels that mean and standard deviation are for; 1 if they do not tell."""
        return max(len(self.mean), len(self.std), 1)

    def apply(self, images: Tensor) -> Tensor:
        """Return the input of the network, float32.

        Args:
            images: (B, H, W) or (B, H, W, C) of any numeric dtype.

        Raises:
            InvalidArgument: The images have another number of channels than mean and standard deviation.
        """
        if images.ndim not in {3, 4}:
            raise InvalidArgument(
                f"inputs: not images, got shape {tuple(images.shape)}; expected (B, H, W) or (B, H, W, C)"
            )
        pixels = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        if self.channels > 1 and pixels.shape[1] != self.channels:
            if pixels.shape[1] != 1:
                raise InvalidArgument(
                    f"images: another number of channels, got {pixels.shape[1]}; expected {self.channels}, as mean and "
                    "std have"
                )
            pixels = pixels.expand(-1, self.channels, -1, -1)  # grey images have equal channels
        resized = self._resize(pixels) * self.scale
        mean, std = (torch.tensor(values or (default,), device=images.device)[:, None, None]
                     for values, default in ((self.mean, 0.0), (self.std, 1.0)))  # fmt: skip
        standardised = (resized - mean) / std
        return (standardised if self.layout == "nchw" else standardised.permute(0, 2, 3, 1)).contiguous()

    def _resize(self, pixels: Tensor) -> Tensor:
        """Return (B, C, *size) float32; 8-bit values are rounded as Pillow does."""
        height, width = pixels.shape[2:]
        values = pixels.float()
        if self.size is None:
            return values
        target = self.size
        if self.fit == "crop":
            target = _covering(height, width, self.size, self.shorter)
        # One axis after the other, each rounded to 8 bits if the images are, as Pillow does.
        for sides in ((height, target[1]), target):
            if tuple(values.shape[2:]) != sides:
                values = self._resized(values, sides)
                values = (values + 0.5).floor().clamp(0, 255) if pixels.dtype == torch.uint8 else values
        y, x = (target[0] - self.size[0]) // 2, (target[1] - self.size[1]) // 2
        return values[:, :, y : y + self.size[0], x : x + self.size[1]]

    def _resized(self, values: Tensor, sides: tuple[int, int]) -> Tensor:
        if self.interpolation == "nearest":
            return functional.interpolate(values, size=sides, mode="nearest-exact")
        return resample(values, sides, self.interpolation)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the record of an untrusted document.

        Args:
            value: JSON object that ``to_json`` returned.

        Raises:
            InvalidArgument: A field is missing, unknown or out of range.
        """
        try:
            values: dict[str, Any] = {
                name: tuple(entry) if isinstance(entry, list) else entry for name, entry in value.items()
            }
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise InvalidArgument(f"preprocessing: damaged, got {error}; expected what softlabels wrote") from None


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """Options of preprocessing as a command line has them; what is None is taken from the model.

    Attributes:
        size: ``224`` or ``HEIGHTxWIDTH``, in pixels.
        mean: ``imagenet``, or a number for each channel, separated by commas.
        std: As ``mean``.
        layout: ``nchw`` or ``nhwc``.
        scale: Number or fraction, such as ``1/255``.

    Example:
        >>> options = PreprocessingOptions(size="224", scale="1/255", mean="imagenet")
        >>> options.over(Preprocessing()).size
        (224, 224)
    """

    size: str | int | None = None
    mean: str | None = None
    std: str | None = None
    layout: str | None = None
    scale: str | float | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())

    def over(self, base: Preprocessing) -> Preprocessing:
        """Return a record with these options in place of those of ``base``.

        Args:
            base: Preprocessing of the model itself.

        Raises:
            InvalidArgument: An option is malformed or out of range.
        """
        changes: dict[str, Any] = {}
        if self.size is not None:
            changes |= {"size": parse_size(self.size), "shorter": None, "fit": "crop"}
        for name, imagenet in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            text = getattr(self, name)
            if text is not None:
                changes[name] = imagenet if text == "imagenet" else _numbers(name, text)
        if self.layout is not None:
            changes["layout"] = self.layout.lower()
        if self.scale is not None:
            changes["scale"] = _number("scale", str(self.scale))
        return replace(base, **changes)


class Preprocess(nn.Module):
    """A layer that preprocesses images.

    Args:
        preprocessing: Steps to run.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Return the input of the network, float32.

        Args:
            images: (B, H, W) or (B, H, W, C) of any numeric dtype.
        """
        return self.preprocessing.apply(images)


def parse_size(text: str | int) -> tuple[int, int]:
    """Return height and width in pixels.

    Args:
        text: ``224`` for a square, or ``HEIGHTxWIDTH``.

    Raises:
        InvalidArgument: The text is malformed.

    Example:
        >>> parse_size("224"), parse_size("64x96")
        ((224, 224), (64, 96))
    """
    sides = str(text).lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise InvalidArgument(f"size: malformed, got {text!r}; expected a number of pixels, or HEIGHTxWIDTH")
    return int(sides[0]), int(sides[-1])


def _covering(height: int, width: int, size: tuple[int, int], shorter: int | None) -> tuple[int, int]:
    """Return the size of an image whose shorter side is ``shorter``, or which just covers ``size``."""
    short, long = min(height, width), max(height, width)
    if shorter is not None:
        sides = (shorter, shorter * long // short)
        target = sides if height <= width else sides[::-1]
    elif size[0] * width >= size[1] * height:
        target = (size[0], max(size[0] * width // height, size[1]))
    else:
        target = (max(size[1] * height // width, size[0]), size[1])
    if target[0] < size[0] or target[1] < size[1]:
        raise InvalidArgument(
            f"images: smaller than the crop, got {target} after resizing the shorter side to {shorter}; expected at "
            f"least {size}"
        )
    return target


def _numbers(name: str, text: str) -> tuple[float, ...]:
    return tuple(_number(name, item) for item in text.split(","))


def _number(name: str, text: str) -> float:
    """Return the number of a text, which may be a fraction."""
    try:
        return float(Fraction(text.strip())) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError):
        raise InvalidArgument(f"{name}: malformed, got {text!r}; expected numbers such as 0.5 or 1/255") from None
