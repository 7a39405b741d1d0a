"""Image classifiers of the libraries timm and torchvision, whose networks are built by name.

A teacher has the library's weights, or those of a safetensors file; its preprocessing is the library's record for these
weights. A student has initial weights and standardises its inputs with the statistics of the training data. The digest
covers name, preprocessing and weights; the library's version is not a part of it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.models.heads import DEFAULT_HEAD, OutputHead
from softlabels.models.kind import Kind, ModelSpec
from softlabels.models.model import Model
from softlabels.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocess, Preprocessing
from softlabels.models.spec_options import split_options
from softlabels.models.standardize import Standardize

OPERATORS = ("nms", "qnms")
"""Operators of torchvision that classifiers do not use, and that its Python code registers with torch when imported."""

IMAGENET = Preprocessing(size=(224, 224), shorter=256, scale=1 / 255, mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""Preprocessing of weights that a library does not describe."""

OPERATOR_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_DECLARED: list[Any] = []
"""The library of the declared operators, which lasts as long as the process."""


@dataclass(frozen=True, kw_only=True)
class ImageLibrary:
    """A library of image classifiers.

    Attributes:
        name: Name of the kind and of the package.
        create: Returns a network, from its name, the number of classes (None: those of the weights), the shape of an
            input (None: the library's), and ``is_pretrained``, True for the library's weights.
        preprocessing: Returns the preprocessing of the library's weights.
    """

    name: str
    create: Callable[..., nn.Module]
    preprocessing: Callable[[str, nn.Module], Preprocessing]

    def kind(self) -> Kind:
        """Return the kind of MODEL."""
        return Kind(
            name=self.name,
            form=f"{self.name}:NAME[,weights=FILE.safetensors]",
            build=self.build,
            load=self.load,
            describe=self.describe,
            restore=self.restore,
            needs_sample=lambda _: True,
            declares=True,
        )

    def load(self, spec: ModelSpec, sample: Any) -> Model:
        """Return a classifier with weights.

        Args:
            spec: Specification of the model.
            sample: Some inputs, (n, *input_shape); None if there are none.

        Raises:
            InvalidArgument: The library has no such network, or it is not a classifier.
            DataNotFound: There is no file of weights.
            InvalidData: The weights are damaged, or of another network.
        """
        name, options = split_options(spec, ("weights",))
        file = Path(options["weights"]) if "weights" in options else None
        tensors = None if file is None else _read(file)
        network = self._created(spec, name, None, None, is_pretrained=tensors is None)
        if tensors is not None:
            classes = _classes(network, tensors)
            network = network if classes is None else self._created(spec, name, classes, None, is_pretrained=False)
            _fill(network, tensors, str(file))
        recorded = self.preprocessing(name, network)
        preprocessing = spec.declared.preprocessing_over(recorded) or recorded
        module = LibraryNetwork(network, name, preprocessing).eval()
        usual = (*(preprocessing.size or (224, 224)), preprocessing.channels)
        shape = usual if sample is None else tuple(int(side) for side in sample.shape[1:])
        with torch.inference_mode():
            output = module(torch.zeros((1, *shape), dtype=torch.uint8))
        if output.ndim != 2:
            raise InvalidArgument(
                f"MODEL {str(spec)!r}: not a classifier, got outputs of shape {tuple(output.shape)}; expected (B, C)"
            )
        kind = spec.declared.kinds.get(DEFAULT_HEAD, "classes")
        heads = {DEFAULT_HEAD: OutputHead(classes=output.shape[1], kind=kind)}
        return Model(
            spec=str(spec),
            module=module,
            heads=heads,
            input_shape=shape,
            config=self.describe(module, heads),
            preprocessing=preprocessing,
        )

    def build(self, spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]) -> nn.Module:
        """Return a classifier with initial weights.

        Args:
            spec: Specification of the network.
            input_shape: Shape of one input.
            heads: Outputs by name.

        Raises:
            InvalidArgument: The library has no such network, or inputs or heads are not those of a classifier.
        """
        name, options = split_options(spec, ())
        head = next(iter(heads.values()))
        if options or len(heads) != 1 or head.shape or len(input_shape) not in {2, 3}:
            raise InvalidArgument(
                f"MODEL {str(spec)!r}: a classifier of images, got heads {', '.join(heads)} and inputs of shape "
                f"{input_shape}; expected one head per image, and (H, W) or (H, W, C)"
            )
        network = self._created(spec, name, head.classes, input_shape, is_pretrained=False)
        return LibraryNetwork(network, name, None, input_shape).train()

    def describe(self, module: nn.Module, heads: Mapping[str, OutputHead]) -> dict[str, Any]:
        """Return the configuration that ``restore`` rebuilds a network from, as JSON values.

        Raises:
            TypeError: The network is not of this library.
        """
        if not isinstance(module, LibraryNetwork):
            raise TypeError(f"not a network of {self.name}: {type(module).__name__}")
        return {
            "kind": self.name,
            "version": 1,
            "name": module.name,
            "preprocessing": None if module.preprocessing is None else module.preprocessing.to_json(),
            "input_shape": list(module.input_shape),
            "heads": {name: head.to_json() for name, head in heads.items()},
        }

    def restore(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
        """Return the network of a configuration with the tensors as its weights.

        Raises:
            ValueError: The tensors are not those of the configuration.
        """
        head = OutputHead.from_json(next(iter(config["heads"].values())))
        preprocessing = None if config["preprocessing"] is None else Preprocessing.from_json(config["preprocessing"])
        shape = tuple(int(side) for side in config["input_shape"])
        spec = ModelSpec(self.name, text=str(config["name"]))
        network = self._created(spec, spec.text, head.classes, shape or None, is_pretrained=False)
        module = LibraryNetwork(network, spec.text, preprocessing, shape)
        expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != expected:
            raise ValueError("the tensors are not those of the configuration")
        module.load_state_dict(tensors)
        return module.eval()

    def _created(
        self, spec: ModelSpec, name: str, classes: int | None, shape: tuple[int, ...] | None, *, is_pretrained: bool
    ) -> nn.Module:
        """Return a network of the library, with its errors as ours."""
        import_library(self.name)
        try:
            return self.create(name, classes, shape, is_pretrained=is_pretrained)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise InvalidArgument(
                f"MODEL {str(spec)!r}: {self.name} cannot build it, got {type(error).__name__}: {reason}; expected a "
                f"name of {self.name} with weights that can be fetched. Name a file with weights=FILE.safetensors"
            ) from error


class LibraryNetwork(nn.Module):
    """A classifier of a library behind its preprocessing.

    Args:
        network: The classifier.
        name: Name in the library.
        preprocessing: Steps from pixels to the input; None: inputs are standardised with the statistics of the training
            data.
        input_shape: Shape of one input, (H, W) or (H, W, C); () if any size is taken.
    """

    def __init__(
        self, network: nn.Module, name: str, preprocessing: Preprocessing | None, input_shape: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.input_shape = input_shape
        self.standardize = Standardize(input_shape) if preprocessing is None else nn.Identity()
        self.preprocess = Preprocess(preprocessing or Preprocessing())
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, (B, C).

        Args:
            images: (B, H, W) or (B, H, W, C) of any numeric dtype.
        """
        output: Tensor = self.network(self.preprocess(self.standardize(images)))
        return output


def import_library(name: str) -> ModuleType:
    """Return a library, imported also beside a torch of another build than torchvision was compiled for.

    torchvision's own operators cannot be loaded there. Two of them are declared, without code, so that its Python code
    can be imported; classifiers and their weights do not use them.

    Args:
        name: ``timm`` or ``torchvision``.

    Raises:
        InvalidArgument: The library is not installed, or cannot be imported.
    """
    try:
        if "torchvision" not in sys.modules:
            _import_torchvision()
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidArgument(
            f"MODEL {name}: needs {error.name or name}, which is not installed. Run pip install 'softlabels[{name}]', "
            "or beside a CPU-only torch pip install --no-deps torchvision timm"
        ) from None
    except RuntimeError as error:
        raise InvalidArgument(
            f"MODEL {name}: torchvision cannot be imported beside torch {torch.__version__}, got {error}; expected "
            "versions that fit together"
        ) from None


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "does not exist" not in str(error) or _DECLARED:
            raise
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]  # half imported
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in OPERATORS:
            library.define(f"{operator}{OPERATOR_SCHEMA}")
        _DECLARED.append(library)
        importlib.import_module("torchvision")


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except FileNotFoundError:
        raise DataNotFound(f"{file}: there are no weights; expected a safetensors file. Check the path") from None
    except (SafetensorError, OSError) as error:
        raise InvalidData(f"{file}: not a safetensors file, got {error}; expected weights of the network") from None


def _classes(network: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of weights, which a network of other classes shows by its last layer."""
    for name, own in network.state_dict().items():
        other = tensors.get(name)
        if (
            other is not None
            and other.ndim == own.ndim > 0
            and other.shape[1:] == own.shape[1:]
            and len(other) != len(own)
        ):
            return len(other)
    return None


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], file: str) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidData(f"{file}: the weights are of another network, got {reason}; expected its tensors") from None
