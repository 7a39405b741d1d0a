"""Preprocessing of image models of the transformers library, from ``preprocessor_config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.models.preprocessing import Interpolation, Preprocessing

PROCESSOR_FILE = "preprocessor_config.json"
MAX_PROCESSOR_BYTES = 2**20
RESAMPLING: Mapping[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Interpolations by their numbers in Pillow."""
KNOWN_STEPS = {"do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb", "do_reduce_labels"}
LARGE = 384
"""Side from which ConvNeXt's processor stretches images in place of cropping them."""


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """Return the preprocessing that a directory records; None if it records none.

    Args:
        folder: Directory that transformers saved.

    Raises:
        InvalidData: The file is damaged.
        InvalidArgument: It has a step that is not supported here.
    """
    path = folder / PROCESSOR_FILE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(MAX_PROCESSOR_BYTES))
        values = {**config, **_class_defaults(config)}  # in the spelling of today: a size is a mapping
        return _preprocessing(values, path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidData(f"{path}: damaged, got {error!r}; expected what transformers wrote. Copy it again") from None


def _class_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a processor, with the defaults of its class."""
    import transformers

    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if not name.isidentifier():
        raise ValueError(f"image_processor_type {name!r}")
    # The variants on Pillow need no other library, and have the defaults of the others.
    cls = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name, None)
    if cls is None:
        raise ValueError(f"image_processor_type {name!r}, which transformers {transformers.__version__} does not have")
    settings: dict[str, Any] = cls(**config).to_dict()
    return {key: value for key, value in settings.items() if value is not None}


def _preprocessing(values: Mapping[str, Any], path: Path) -> Preprocessing:
    """Return the steps that settings of a processor describe."""
    unknown = [
        name for name, value in values.items() if name.startswith("do_") and value is True and name not in KNOWN_STEPS
    ]
    if unknown or values.get("keep_aspect_ratio"):
        raise InvalidArgument(
            f"{path}: a step of the preprocessing is not supported, got {(unknown or ['keep_aspect_ratio'])[0]}; "
            "expected resizing, cropping, scaling and standardising. Wrap the model as python:MODULE:NAME"
        )
    fields: dict[str, Any] = {"scale": float(values["rescale_factor"]) if values.get("do_rescale") else 1.0}
    if values.get("do_normalize"):
        fields |= {"mean": tuple(map(float, values["image_mean"])), "std": tuple(map(float, values["image_std"]))}
    if values.get("do_resize"):
        resampling = RESAMPLING.get(int(values["resample"]))
        if resampling is None:
            raise InvalidArgument(
                f"{path}: the resampling is not supported, got {values['resample']!r}; expected nearest, bilinear or "
                "bicubic"
            )
        fields |= {"interpolation": resampling, **_size(values)}
    return Preprocessing(**fields)


def _size(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of resizing and cropping."""
    size = values["size"]
    crop = values.get("crop_size") if values.get("do_center_crop") else None
    cropped: tuple[int, int] | None = None if crop is None else (int(crop["height"]), int(crop["width"]))
    if "shortest_edge" not in size:
        stretched = (int(size["height"]), int(size["width"]))
        if cropped not in {None, stretched}:
            raise ValueError(f"size {size} with crop_size {crop}")
        return {"size": stretched, "fit": "stretch"}
    shorter = int(size["shortest_edge"])
    if "crop_pct" in values:
        stretches = shorter >= LARGE
        share = float(values["crop_pct"])
        return {
            "size": (shorter, shorter),
            "fit": "stretch" if stretches else "crop",
            "shorter": None if stretches else int(shorter / share),
        }
    return {"size": cropped or (shorter, shorter), "shorter": shorter}


def default_preprocessing(network: Any) -> Preprocessing:
    """Return the preprocessing of a network that is trained from a configuration: the size its positions are for.

    Args:
        network: The model.
    """
    size = getattr(network.config, "image_size", None)
    if not isinstance(size, int) or not hasattr(network.config, "patch_size"):
        return Preprocessing()
    return Preprocessing(size=(size, size), fit="stretch")
