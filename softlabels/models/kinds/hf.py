"""``hf:PATH``: a model in a directory that transformers saved, or of a hub.

The class of ``config.json`` decides the head: a causal language model predicts ``tokens``, a masked one or a token
classifier has one output per token, a sequence classifier ``classes`` per row, and a model without an output layer a
pooled ``embedding``. Models of images are in ``softlabels.models.transformers_vision``. Weights are read from
safetensors alone, and no code of the directory ever runs. The digest covers the configuration, preprocessing, dtype,
attention implementation and weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData, SoftLabelsError
from softlabels.models import transformers_vision as vision
from softlabels.models.building import meta_device
from softlabels.models.heads import DEFAULT_HEAD, OutputHead
from softlabels.models.hidden_states import HiddenStates, split_heads, with_hidden_heads
from softlabels.models.kind import Kind, ModelSpec
from softlabels.models.model import CPU, Model
from softlabels.models.transformers_library import class_of, is_known, quiet, transformers_errors
from softlabels.models.transformers_networks import (
    CausalLM,
    Encoder,
    SequenceClassifier,
    SlicedCausalLM,
    TokenClassifier,
    TransformersNetwork,
    changes_logits,
)
from softlabels.models.transformers_source import TransformersSource, locate
from softlabels.text import load_tokenizer
from softlabels.text.tokenizer_files import FILE as TOKENIZER_FILE

FORM = "hf:PATH or hf:OWNER/NAME@COMMIT"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "pytorch_model.pt")
EMBEDDING_HEAD = "embedding"
NOT_IDENTITY = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
MAX_CONFIG_BYTES = 2**24


def load(spec: ModelSpec, sample: Any) -> Model:
    """Return the model of a directory, or of a hub.

    Args:
        spec: Specification of the model.
        sample: Some inputs, (n, *input_shape); None if there are none.

    Raises:
        DataNotFound: There is no such directory, or there are no weights.
        InvalidData: The model is damaged, or its weights are pickled.
        InvalidArgument: The architecture is unknown, or heads are declared of a model that has its own.
    """
    source = locate(spec)
    folder = source.folder
    config = read_config(folder)
    if not any(folder.glob("*.safetensors")):
        pickled = [name for name in PICKLED if (folder / name).exists()]
        if pickled:
            raise InvalidData(
                f"{folder}: the checkpoint is pickled, got {pickled[0]}; expected safetensors, because a pickle runs "
                "code when it is loaded. If you trust it, convert it: AutoModel.from_pretrained(DIR, weights_only=True)"
                ".save_pretrained(DIR)"
            )
        raise DataNotFound(f"{folder}: there are no weights; expected *.safetensors. Download the model again")
    network = _pretrained(folder, config, source.arguments())
    if vision.is_image_class(type(network)):
        return vision.load(spec, source, network, _architecture_config(network) | _quantization(source), sample)
    if spec.declared:
        raise InvalidArgument(f"{spec}: not a model of images; leave out heads and preprocessing")
    module = wrap(network, _pooling(folder))
    heads = heads_of(module)
    return Model(
        spec=source.spec,
        module=module.eval(),
        heads=heads,
        input_shape=(),
        config=config_of(network, heads, module) | _quantization(source),
        device=network.get_input_embeddings().weight.device if "device_map" in source.options else CPU,
        tokenizer=load_tokenizer(folder) if (folder / TOKENIZER_FILE).exists() else None,
    )


def _quantization(source: TransformersSource) -> dict[str, str]:
    """Return the quantisation as a part of the configuration, which the digest covers; empty without any."""
    return {name: value for name, value in source.options.items() if name == "quantization"}


def _needs_sample(text: str) -> bool:
    """Return True if a directory holds a model of images; False if it cannot be read, which loading reports."""
    try:
        return vision.is_image_class(class_of(read_config(locate(ModelSpec(KIND.name, text=text)).folder)))
    except SoftLabelsError:
        return False


def build(spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]) -> nn.Module:
    """Return a network to train: the weights of the directory if it has any, else initial ones for its config.json.

    Args:
        spec: Specification of the network.
        input_shape: Shape of one input.
        heads: Outputs by name.

    Raises:
        InvalidArgument: The model has another head, or an option is for teachers.
        InvalidData: The model is damaged.
    """
    source = locate(spec, pinned=True)
    folder = source.folder
    config = read_config(folder)
    if {"device_map", "quantization"} & set(source.options):
        raise InvalidArgument(f"MODEL {str(spec)!r}: device_map and quantization are for teachers. Leave them out")
    pretrained = any(folder.glob("*.safetensors")) and torch.empty(0).device.type != "meta"
    main = split_heads(heads)[1]
    network = _pretrained(folder, config, source.arguments()) if pretrained else _initial(folder, config, main)
    if vision.is_image_class(type(network)):
        return vision.build(spec, folder, network, input_shape, heads)
    module = wrap(network, _pooling(folder))
    produced = next(iter(heads_of(module).values()))
    required = next(iter(main.values()), None)
    if required is None or len(main) != 1 or (produced.kind, produced.classes) != (required.kind, required.classes):
        listed = ", ".join(f"{name} ({head.kind}, {head.classes})" for name, head in heads.items())
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: has another head, got {produced.kind} with {produced.classes} classes; expected "
            f"{listed}. Choose another model, or change its config.json"
        )
    return with_hidden_heads(module, heads, str(spec))


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a directory.

    Args:
        folder: Directory that transformers saved.

    Raises:
        DataNotFound: There is no such directory, or no configuration in it.
        InvalidData: The configuration is damaged, or the model needs code of its own.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise DataNotFound(
            f"hf:{folder}: there is no {path}; expected a directory that transformers saved, or "
            "hf:OWNER/NAME@COMMIT of a hub"
        )
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(MAX_CONFIG_BYTES))
        architectures = config.get("architectures") or []
        architecture = architectures[0] if architectures else None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidData(f"{path}: damaged, got {error}; expected a configuration. Download it again") from None
    if "auto_map" in config and not is_known(str(config.get("model_type"))):
        raise InvalidArgument(
            f"{path}: the model needs code of its own, got model_type {config.get('model_type')!r}; expected a model "
            "type of transformers, because code of a model is never run. Wrap it as python:MODULE:NAME if you trust it"
        )
    if not isinstance(architecture, str):
        raise InvalidData(f"{path}: no architecture, got {architectures!r}; expected the name of a class. Add "
                          'one, such as "architectures": ["GPT2LMHeadModel"]')  # fmt: skip
    return dict(config)


def wrap(network: Any, pooling: tuple[str, bool]) -> TransformersNetwork:
    """Return a model of transformers behind the interface of this package.

    Args:
        network: The model.
        pooling: Pooling of encoders, and whether embeddings are normalised.

    Raises:
        InvalidArgument: The class has no head that is known here.
    """
    name = type(network).__name__
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        has_layer = network.get_output_embeddings() is not None and network.base_model is not network
        plain = has_layer and not changes_logits(network.config)
        return SlicedCausalLM(network) if plain else CausalLM(network)
    if name.endswith(("ForTokenClassification", "ForMaskedLM")):
        return TokenClassifier(network)
    if name.endswith("ForSequenceClassification"):
        return SequenceClassifier(network)
    if name.endswith("Model"):
        return Encoder(network, pooling=pooling[0], normalize=pooling[1])
    raise InvalidArgument(
        f"{name}: no known head; expected a class that ends in ForCausalLM, ForMaskedLM, ForTokenClassification, "
        "ForSequenceClassification or Model. Wrap the model as python:MODULE:NAME"
    )


def heads_of(module: TransformersNetwork) -> dict[str, OutputHead]:
    """Return the head of a network.

    Args:
        module: A network that ``wrap`` returned.
    """
    network = module.network
    if isinstance(module, Encoder):
        return {EMBEDDING_HEAD: OutputHead(classes=int(network.config.hidden_size), kind="embedding")}
    if isinstance(module, SequenceClassifier):
        return {DEFAULT_HEAD: OutputHead(classes=int(network.config.num_labels))}
    layer = network.get_output_embeddings() if not _is_classifier(network) else None
    classes = int(network.config.num_labels) if layer is None else int(layer.weight.shape[0])
    return {DEFAULT_HEAD: OutputHead(classes=classes, kind="tokens", shape=(None,))}


def config_of(network: Any, heads: Mapping[str, OutputHead], module: TransformersNetwork) -> dict[str, Any]:
    """Return the configuration of a model, as JSON values.

    Args:
        network: The model.
        heads: Its heads.
        module: The wrapped model.
    """
    return {
        **_architecture_config(network),
        "vocabulary": int(network.get_input_embeddings().num_embeddings),
        "pooling": [module.pooling, module.normalize] if isinstance(module, Encoder) else None,
        "input_shape": [],
        "heads": {name: head.to_json() for name, head in heads.items()},
    }


def _architecture_config(network: Any) -> dict[str, Any]:
    values = {name: value for name, value in network.config.to_dict().items() if name not in NOT_IDENTITY}
    return {
        "kind": KIND.name,
        "version": KIND.version,
        "class": type(network).__name__,
        "transformers": json.loads(json.dumps(values, sort_keys=True, default=str)),
        "dtype": str(network.dtype).removeprefix("torch."),
        "attention": str(getattr(network.config, "_attn_implementation", "eager")),
    }


def describe(module: nn.Module, heads: Mapping[str, OutputHead]) -> dict[str, Any]:
    """Return the configuration that ``restore`` rebuilds a trained network from.

    Args:
        module: A network that ``build`` returned.
        heads: Its heads by name.

    Raises:
        TypeError: The network is not of transformers.
    """
    if isinstance(module, vision.ImageNetwork):
        return vision.describe(module, heads, _architecture_config(module.network))
    if isinstance(module, HiddenStates):
        module = module.network
    if not isinstance(module, TransformersNetwork):
        raise TypeError(f"not a network of transformers: {type(module).__name__}")
    return config_of(module.network, heads, module)


def restore(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the network of a configuration with the tensors as its weights; no memory is allocated for other sizes.

    Args:
        config: Configuration that ``describe`` returned.
        tensors: Weights by name.

    Raises:
        ValueError: The tensors are not those of the configuration.
    """
    values = dict(config["transformers"])
    pooling = config.get("pooling") or ["mean", False]

    def construct() -> nn.Module:
        from transformers import AutoConfig

        settings = AutoConfig.for_model(
            str(values["model_type"]), **{name: value for name, value in values.items() if name != "model_type"}
        )
        dtype = getattr(torch, str(config["dtype"]))
        with quiet():
            cls = class_of({"architectures": [config["class"]]})
            network = cls._from_config(settings, dtype=dtype)
        if config.get("modality") == "image":
            return vision.restore(network, config)
        wrapped = wrap(network, (str(pooling[0]), bool(pooling[1])))
        heads = {str(name): OutputHead.from_json(head) for name, head in config["heads"].items()}
        return with_hidden_heads(wrapped, heads, KIND.name)

    with meta_device():
        expected = {name: tensor.shape for name, tensor in construct().state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise ValueError("the tensors are not those of the configuration")
    module = construct()
    module.load_state_dict(tensors)
    return module.eval()


def _pretrained(folder: Path, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Return the model with its weights; raise if weights are missing."""
    with quiet(), transformers_errors(folder):
        network, report = class_of(config).from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **arguments,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InvalidData(
            f"{folder}: weights are missing, got none for {', '.join(missing[:3])}; expected those of "
            f"{type(network).__name__}. Name the class of the checkpoint in config.json"
        )
    return network


def _initial(folder: Path, config: Mapping[str, Any], heads: Mapping[str, OutputHead]) -> Any:
    """Return the model of a configuration with initial weights, as wide as the head."""
    from transformers import AutoConfig

    head = next(iter(heads.values()))
    values = {name: value for name, value in config.items() if name != "model_type"}
    cls = class_of(config)
    if cls.__name__.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM")):
        values["vocab_size"] = head.classes
    elif head.kind in {"classes", "tokens", "pixels"}:
        values["num_labels"] = head.classes
    with quiet(), transformers_errors(folder):
        return cls._from_config(AutoConfig.for_model(str(config["model_type"]), **values))


def _is_classifier(network: Any) -> bool:
    return type(network).__name__.endswith("ForTokenClassification")


def _pooling(folder: Path) -> tuple[str, bool]:
    """Return the pooling that sentence-transformers recorded: mean or first, and whether embeddings are normalised."""
    try:
        modules = json.loads((folder / "modules.json").read_text())
        kinds = {str(module["type"]).rpartition(".")[2]: module["path"] for module in modules}
        settings = json.loads((folder / kinds["Pooling"] / "config.json").read_text()) if "Pooling" in kinds else {}
    except FileNotFoundError:
        return "mean", False
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidData(f"{folder}/modules.json: damaged, got {error}; expected a list of modules") from None
    return "first" if settings.get("pooling_mode_cls_token") else "mean", "Normalize" in kinds


KIND = Kind(name="hf", form=FORM, build=build, load=load, describe=describe, restore=restore,
            needs_sample=_needs_sample, declares=True)  # fmt: skip
