"""Image models of the transformers library: pixels in, tensors by head out.

The class decides the head: ``ForImageClassification`` predicts ``classes``, ``ForSemanticSegmentation`` ``pixels`` at
the resolution of its output, ``ForDepthEstimation`` a ``regression`` per pixel, and a model without an output layer a
pooled ``embedding``. ``preprocessor_config.json`` decides the preprocessing.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.labels import HeadKind
from softlabels.models.heads import DEFAULT_HEAD, OutputHead
from softlabels.models.preprocessing import Interpolation, Preprocess, Preprocessing
from softlabels.models.standardize import Standardize

PROCESSOR_FILE = "preprocessor_config.json"
MAX_PROCESSOR_BYTES = 2**20
RESAMPLING: Mapping[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Interpolations by their numbers in Pillow."""
KNOWN_STEPS = {"do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb", "do_reduce_labels"}
LARGE = 384
"""Side from which ConvNeXt's processor stretches images in place of cropping them."""

TASKS: Mapping[str, tuple[str, HeadKind]] = {
    "ForImageClassification": (DEFAULT_HEAD, "classes"),
    "ForImageClassificationWithTeacher": (DEFAULT_HEAD, "classes"),
    "ForSemanticSegmentation": (DEFAULT_HEAD, "pixels"),
    "ForDepthEstimation": ("depth", "regression"),
    "Model": ("embedding", "embedding"),
}
"""Name and kind of the head, by the end of the class name."""


def is_image_class(cls: Any) -> bool:
    """Return whether a model class of transformers takes images.

    Args:
        cls: Class of the model.
    """
    return getattr(cls, "main_input_name", None) == "pixel_values"


def task_of(cls: Any) -> tuple[str, HeadKind]:
    """Return the name and kind of a class's head.

    Args:
        cls: Class of the model.

    Raises:
        InvalidArgument: The class has no head that is known here.
    """
    task = next((task for ending, task in TASKS.items() if cls.__name__.endswith(ending)), None)
    if task is None:
        raise InvalidArgument(
            f"{cls.__name__}: no known head for images; expected a class that ends in {', '.join(TASKS)}. Wrap the "
            "model as python:MODULE:NAME"
        )
    return task


class ImageNetwork(nn.Module):
    """An image model of transformers behind its preprocessing.

    Args:
        network: The model.
        preprocessing: Steps from pixels to the input; None: inputs are standardised with the statistics of the training
            data.
        input_shape: Shape of one input, (H, W) or (H, W, C).
        head: Output to compute; None: as the network has it. Pixels at another resolution are resized to its.
    """

    def __init__(
        self,
        network: Any,
        preprocessing: Preprocessing | None,
        input_shape: tuple[int, ...],
        head: OutputHead | None = None,
    ) -> None:
        super().__init__()
        self.name, self.kind = task_of(type(network))
        self.preprocessing = preprocessing
        self.input_shape = input_shape
        self.standardize = Standardize(input_shape) if preprocessing is None else nn.Identity()
        self.preprocess = Preprocess(preprocessing or default_preprocessing(network))
        self.network = network
        self.head = head
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters

    def forward(self, images: Tensor) -> Tensor:
        """Return the output, channels last.

        Args:
            images: (B, H, W) or (B, H, W, C) of any numeric dtype.
        """
        pixels = self.preprocess(self.standardize(images)).to(next(self.network.parameters()).dtype)
        size = getattr(self.network.config, "image_size", None)
        options = {"interpolate_pos_encoding": True} if self._interpolates and not _fits(pixels, size) else {}
        outputs = self.network(pixel_values=pixels, **options)
        if self.kind == "classes":
            logits: Tensor = outputs.logits
            return logits
        if self.kind == "embedding":
            return _embedding(outputs, self.network)
        dense = outputs.logits if self.kind == "pixels" else outputs.predicted_depth
        dense = dense if dense.ndim == 4 else dense.unsqueeze(1)
        return _at_resolution(dense, self.head).permute(0, 2, 3, 1)


def heads_of(module: ImageNetwork, sample: Any) -> dict[str, OutputHead]:
    """Return the head of a network, from its output for one input.

    Args:
        module: The network, in evaluation mode.
        sample: Inputs, (n, *input_shape).
    """
    with torch.inference_mode():
        shape = tuple(module(torch.as_tensor(sample[:1])).shape)
    return {module.name: OutputHead(classes=shape[-1], kind=module.kind, shape=shape[1:-1])}


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


def _fits(pixels: Tensor, size: Any) -> bool:
    """Return whether images have the size that positions of a network are for."""
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return size is None or tuple(pixels.shape[2:]) == sides


def _embedding(outputs: Any, network: Any) -> Tensor:
    """Return one vector per image, (B, width): the pooled output, or the first token where pooling is a layer."""
    pooled = getattr(outputs, "pooler_output", None)
    has_layer = any(True for _ in getattr(getattr(network, "pooler", None), "parameters", tuple)())
    if pooled is not None and not has_layer:
        vectors: Tensor = pooled.flatten(1)
        return vectors
    states: Tensor = outputs.last_hidden_state
    return states[:, 0] if states.ndim == 3 else states.mean(dim=(2, 3))


def _at_resolution(outputs: Tensor, head: OutputHead | None) -> Tensor:
    """Return (B, C, H, W) outputs at the resolution of the head."""
    shape = outputs.shape[2:] if head is None else tuple(side or 1 for side in head.shape)
    if tuple(outputs.shape[2:]) == tuple(shape):
        return outputs
    return functional.interpolate(outputs, size=tuple(shape), mode="bilinear", align_corners=False)
