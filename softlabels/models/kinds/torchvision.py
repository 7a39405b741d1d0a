"""``torchvision:NAME``: an image classifier of torchvision, with its weights and preprocessing."""

from __future__ import annotations

from typing import Any

from torch import nn

from softlabels.errors import InvalidArgument
from softlabels.models.image_libraries import IMAGENET, ImageLibrary, import_library
from softlabels.models.preprocessing import Preprocessing


def create(name: str, classes: int | None, shape: tuple[int, ...] | None, *, is_pretrained: bool) -> nn.Module:
    """Return a network of torchvision; see ImageLibrary.

    Raises:
        InvalidArgument: Inputs do not have three channels.
    """
    models: Any = import_library("torchvision").models
    if shape is not None and (len(shape) != 3 or shape[2] != 3):
        raise InvalidArgument(f"inputs: networks of torchvision take three channels, got shape {shape}")
    options = {} if classes is None else {"num_classes": classes}
    network: nn.Module = models.get_model(name, weights="DEFAULT" if is_pretrained else None, **options)
    return network


def preprocessing(name: str, network: nn.Module) -> Preprocessing:
    """Return the preprocessing of a network's default weights."""
    models: Any = import_library("torchvision").models
    steps = models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        size=(int(steps.crop_size[0]), int(steps.crop_size[0])),
        shorter=int(steps.resize_size[0]),
        interpolation=steps.interpolation.value,
        scale=IMAGENET.scale,
        mean=tuple(map(float, steps.mean)),
        std=tuple(map(float, steps.std)),
    )


KIND = ImageLibrary(name="torchvision", create=create, preprocessing=preprocessing).kind()
