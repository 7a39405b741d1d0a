"""Image models of the transformers library: pixels in, tensors by head out.

The class decides the head: ``ForImageClassification`` predicts ``classes``, ``ForSemanticSegmentation`` ``pixels`` at
the resolution of its output, ``ForDepthEstimation`` a ``regression`` per pixel, and a model without an output layer a
pooled ``embedding``. ``softlabels.models.transformers_preprocessing`` reads the preprocessing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from softlabels.errors import DataNotFound, InvalidArgument
from softlabels.labels import HeadKind
from softlabels.models.heads import DEFAULT_HEAD, OutputHead
from softlabels.models.kind import ModelSpec
from softlabels.models.model import Model, as_tensor
from softlabels.models.preprocessing import Preprocess, Preprocessing
from softlabels.models.standardize import Standardize
from softlabels.models.transformers_preprocessing import PROCESSOR_FILE, default_preprocessing, read_preprocessing
from softlabels.models.transformers_source import TransformersSource

TASKS: Mapping[str, tuple[str, HeadKind]] = {
    "ForImageClassification": (DEFAULT_HEAD, "classes"),
    "ForImageClassificationWithTeacher": (DEFAULT_HEAD, "classes"),
    "ForSemanticSegmentation": (DEFAULT_HEAD, "pixels"),
    "ForDepthEstimation": ("depth", "regression"),
    "Model": ("embedding", "embedding"),
}
"""Name and kind of the head, by the end of the class name."""


def is_image_class(cls: Any) -> bool:
    """Return True if a model class of transformers takes images.

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


def load(
    spec: ModelSpec, source: TransformersSource, network: Any, architecture: Mapping[str, Any], sample: Any
) -> Model:
    """Return a model of images, whose head depends on the size of its inputs.

    Args:
        spec: Specification, with what the caller declares.
        source: Directory and options.
        network: The model.
        architecture: Configuration of the network, as JSON values.
        sample: Inputs, (n, *input_shape); None is refused.

    Raises:
        InvalidArgument: An option, a declared head or the inputs do not fit.
        InvalidData: The preprocessing is damaged.
        DataNotFound: The preprocessing is neither recorded nor declared.
    """
    folder = source.folder
    if "device_map" in source.options:
        raise InvalidArgument(f"{spec}: device_map is for language models; expected device=. Leave it out")
    recorded = read_preprocessing(folder)
    preprocessing = spec.declared.preprocessing_over(recorded)
    if preprocessing is None:
        raise DataNotFound(
            f"{folder}: the preprocessing is unknown, got no {PROCESSOR_FILE}; expected that file, or scale=, "
            "mean=, std= and size="
        )
    if sample is None:
        raise InvalidArgument(f"{spec}: a sample of inputs is needed to find the head, got None")
    if recorded is preprocessing and preprocessing.scale < 1 and as_tensor(sample[:1]).is_floating_point():
        raise InvalidArgument(
            f"{spec}: the model takes 8-bit images, got {sample.dtype} inputs that it would scale by "
            f"{preprocessing.scale:.5f}; expected uint8. Name the scale of your data with scale="
        )
    shape = tuple(int(side) for side in sample.shape[1:])
    module = ImageNetwork(network, preprocessing, shape).eval()
    heads = heads_of(module, as_tensor(sample[:1]))
    _check_kinds(spec, heads)
    return Model(
        spec=source.spec,
        module=module,
        heads=heads,
        input_shape=shape,
        config=describe(module, heads, architecture),
        preprocessing=preprocessing,
    )


def _check_kinds(spec: ModelSpec, heads: Mapping[str, OutputHead]) -> None:
    for name, kind in spec.declared.kinds.items():
        if name not in heads or heads[name].kind != kind:
            shown = ", ".join(f"{head_name}={head.kind}" for head_name, head in heads.items())
            raise InvalidArgument(f"{spec}: has other heads, got heads={{{name!r}: {kind!r}}}; expected {shown}")


def describe(module: ImageNetwork, heads: Mapping[str, OutputHead], architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that ``restore`` rebuilds a network from, as JSON values.

    Args:
        module: The network.
        heads: Its heads.
        architecture: Configuration of the network of transformers in it, as JSON values.
    """
    return {
        **architecture,
        "modality": "image",
        "preprocessing": None if module.preprocessing is None else module.preprocessing.to_json(),
        "input_shape": list(module.input_shape),
        "heads": {name: head.to_json() for name, head in heads.items()},
    }


def build(
    spec: ModelSpec, folder: Path, network: Any, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]
) -> nn.Module:
    """Return a network of images to train, whose only head is the one to learn.

    Args:
        spec: Specification that messages name.
        folder: Directory that transformers saved.
        network: The model.
        input_shape: Shape of one input.
        heads: Head to learn.

    Raises:
        InvalidArgument: The network has another head.
        InvalidData: The preprocessing is damaged.
    """
    name, required = next(iter(heads.items()))
    _, kind = task_of(type(network))
    module = ImageNetwork(network, read_preprocessing(folder), input_shape, required)
    with torch.inference_mode():
        device = next(network.parameters()).device
        channels = tuple(module.eval()(torch.zeros(1, *input_shape, device=device)).shape)[-1]
    if len(heads) != 1 or (kind, channels) != (required.kind, required.classes):
        listed = ", ".join(f"{head_name} ({head.kind}, {head.classes})" for head_name, head in heads.items())
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: has another head, got {kind} with {channels} classes; expected {listed}. Choose "
            "another model, or change its config.json"
        )
    module.name = name
    return module.train()


def restore(network: Any, config: Mapping[str, Any]) -> ImageNetwork:
    """Return the network of a configuration.

    Args:
        network: The model of transformers.
        config: Configuration that ``describe`` returned.
    """
    preprocessing = None if config["preprocessing"] is None else Preprocessing.from_json(config["preprocessing"])
    name, head = next(iter(config["heads"].items()))
    shape = tuple(int(side) for side in config["input_shape"])
    module = ImageNetwork(network, preprocessing, shape, OutputHead.from_json(head))
    module.name = str(name)
    return module


def _fits(pixels: Tensor, size: Any) -> bool:
    """Return True if images have the size that positions of a network are for."""
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
