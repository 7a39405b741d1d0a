"""``timm:NAME``: an image classifier of the library timm, with its weights and preprocessing."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from softlabels.models.image_libraries import IMAGENET, ImageLibrary, import_library
from softlabels.models.preprocessing import Preprocessing

STRETCHED = "squash"
"""Mode of timm that resizes both sides."""


def create(name: str, classes: int | None, shape: tuple[int, ...] | None, *, is_pretrained: bool) -> nn.Module:
    """Return a network of timm; see ImageLibrary."""
    timm: Any = import_library("timm")
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if shape is not None:
        options["in_chans"] = shape[2] if len(shape) == 3 else 1
    try:  # networks with positions are built for a size
        sized = {} if shape is None else {"img_size": shape[:2]}
        network: nn.Module = timm.create_model(name, pretrained=is_pretrained, **options, **sized)
    except TypeError:
        network = timm.create_model(name, pretrained=is_pretrained, **options)
    return network


def preprocessing(name: str, network: nn.Module) -> Preprocessing:
    """Return the preprocessing of a network's weights."""
    timm: Any = import_library("timm")
    config = timm.data.resolve_model_data_config(network)
    size = (int(config["input_size"][1]), int(config["input_size"][2]))
    is_stretched = config["crop_mode"] == STRETCHED
    return Preprocessing(
        size=size,
        fit="stretch" if is_stretched else "crop",
        shorter=None if is_stretched else math.floor(min(size) / float(config["crop_pct"])),
        interpolation=config["interpolation"],
        scale=IMAGENET.scale,
        mean=tuple(map(float, config["mean"])),
        std=tuple(map(float, config["std"])),
    )


KIND = ImageLibrary(name="timm", create=create, preprocessing=preprocessing).kind()
