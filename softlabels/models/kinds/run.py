"""``run:DIR``: a model that training wrote.

Loading a run never runs code from it. The network is built without weights first and takes the tensors of the weights
file, so no memory is allocated for sizes that a document claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData, RunCorrupt
from softlabels.models.building import build_without_weights
from softlabels.models.digest import state_of
from softlabels.models.heads import OutputHead
from softlabels.models.kind import Kind, ModelSpec
from softlabels.models.kinds import kinds
from softlabels.models.model import Model
from softlabels.models.run_directory import read_run, read_weights
from softlabels.models.spec import check_option
from softlabels.text import Tokenizer, load_tokenizer
from softlabels.text.tokenizer_files import FILE as TOKENIZER_FILE


def load(spec: ModelSpec, sample: Any) -> Model:
    """Return the model of a run directory."""
    return load_run(Path(spec.text))


def load_run(folder: Path, network: nn.Module | None = None) -> Model:
    """Return the model of a run directory, checked against the digest in its description.

    Args:
        folder: Run directory.
        network: Network of the user that takes the weights; None: the built-in architecture of the run.

    Raises:
        InvalidArgument: The run is of a network of the user, and there is none.
        DataNotFound: There is no finished run.
        RunCorrupt: The run is damaged, or its weights are not the ones described.
    """
    run = read_run(folder)
    if run.model.initial is not None and network is None:
        raise InvalidArgument(
            f"run:{folder}: the network is code of yours, got a run without it; expected {run.model.spec}@{folder}. "
            "Name that if you trust the code: it is imported and run"
        )
    try:
        config = run.model.config
        shape = tuple(int(side) for side in config["input_shape"])
        heads = {str(name): OutputHead.from_json(head) for name, head in config["heads"].items()}
        module = _network(config, shape, heads, folder) if network is None else _with_weights(network, folder)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise RunCorrupt(f"{folder}: the run is damaged, got {error}; expected what training wrote. Copy it again, or "
                         "train again") from error  # fmt: skip
    model = Model(
        spec=f"run:{folder}" if network is None else f"{run.model.spec}@{folder}",
        module=module,
        heads=heads,
        input_shape=shape,
        config=config,
        user_code=network is not None,
        run=run,
        path=folder,
        tokenizer=_tokenizer(folder, config),
    )
    digest = replace(model, spec=run.model.spec).digest
    if digest != run.model.digest:
        raise RunCorrupt(
            f"{folder}: the model is not the one that run.json describes, got digest {digest}; expected "
            f"{run.model.digest}. Copy the run again, and use the code it was trained with"
        )
    return model


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer | None:
    """Return the tokenizer that a run of a language model names; None for other models."""
    digest = config.get("tokenizer")
    if digest is None:
        return None
    path = folder / TOKENIZER_FILE
    try:
        tokenizer = load_tokenizer(path)
    except (DataNotFound, InvalidData) as error:
        raise RunCorrupt(f"{path}: the tokenizer is missing or damaged, got {error}. Copy the run again") from None
    if tokenizer.digest != digest:
        raise RunCorrupt(
            f"{path}: another tokenizer than the run names, got digest {tokenizer.digest}; expected {digest}. Copy the "
            "run again"
        )
    return tokenizer


def _network(
    config: Mapping[str, Any], input_shape: tuple[int, ...], heads: Mapping[str, OutputHead], folder: Path
) -> nn.Module:
    """Return the network that a configuration describes, with the weights of its run."""
    kind = kinds().get(config["kind"])
    if kind is None or (kind.options is None and kind.restore is None):
        raise InvalidArgument(f"model kind: unsupported, got {config['kind']!r}; expected a built-in architecture")
    if config["version"] != kind.version:
        raise InvalidArgument(
            f"code version of {kind.name}: unsupported, got {config['version']!r}; expected {kind.version}. Train again"
        )
    if kind.restore is not None:
        return kind.restore(config, read_weights(folder))
    module = build_without_weights(kind, ModelSpec(kind.name, _options(kind, config["options"])), input_shape, heads)
    module.load_state_dict(read_weights(folder, state_of(module)), assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module.eval()


def _options(kind: Kind, recorded: Mapping[str, Any]) -> dict[str, int | float]:
    """Return the options that a configuration records, checked; those added to the kind later may be missing."""
    options = kind.options or {}
    if unknown := sorted(recorded.keys() - options.keys()):
        raise InvalidArgument(
            f"options of {kind.name}: unknown option, got {unknown[0]!r}; expected {', '.join(options)}. Use the "
            "version of softlabels that trained the run"
        )
    return {
        name: check_option(option, recorded[name], name)
        for name, option in options.items()
        if name in recorded or not option.omit_default
    }


def _with_weights(network: nn.Module, folder: Path) -> nn.Module:
    network.load_state_dict(read_weights(folder, state_of(network)))
    return network.eval()


KIND = Kind(name="run", form="run:DIR", load=load)
