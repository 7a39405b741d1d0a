"""Hidden states of chosen layers as outputs beside the logits, one vector per labelled position.

Layers are numbered as transformers numbers them: 0 is the embedding, layer k the output of block k, and the last one
the normalised state that the output layer sees. Draft models (arXiv 2401.15077) and feature losses learn from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from softlabels.errors import InvalidArgument
from softlabels.models.heads import OutputHead
from softlabels.models.model import Model, is_sliceable
from softlabels.models.user_code import CodeIdentity
from softlabels.sources import Ragged

PREFIX = "hidden_"
"""Head of layer k is ``hidden_k``."""


class HiddenStates(nn.Module):
    """A language model that also returns the states of some layers.

    Args:
        network: Network with ``layer_states``.
        layers: Number of the layer of each head, by the name of the head.
        main: Name of the head of the network itself.
        widths: Width of each head; a head of another width than the states has a learned projection. None: those of
            the states.
    """

    def __init__(
        self, network: nn.Module, layers: Mapping[str, int], main: str, widths: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.layers = dict(layers)
        self.main = main
        self.predicts_next: bool = getattr(network, "predicts_next", True)
        self.max_positions: int | None = getattr(network, "max_positions", None)
        self.placed: bool = getattr(network, "placed", False)
        if is_sliceable(network):
            self.project = network.project
            self.states_and_outputs = self._states_and_outputs
        own_width = int(getattr(network, "width", 0))
        other_widths = {name: width for name, width in (widths or {}).items() if width != own_width}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(own_width, width, bias=False) for name, width in other_widths.items()}
        )

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]  # passed on
        """Return the state of the network and of the projections.

        Raises:
            TypeError: A destination was passed: the state is read as a whole.
        """
        if args or options.get("destination") is not None:
            raise TypeError("the state of hidden states is read as a whole")
        prefix = options.pop("prefix", "")
        modules = {"network": self.network, "projections": self.projections}
        return {
            f"{prefix}{group}.{name}": value
            for group, module in modules.items()
            for name, value in module.state_dict(**options).items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: FBT001, FBT002  as torch
        """Load a state that ``state_dict`` returned."""
        for group, module in (("network", self.network), ("projections", self.projections)):
            own = {name.removeprefix(f"{group}."): v for name, v in state_dict.items() if name.startswith(f"{group}.")}
            module.load_state_dict(own, strict=strict, assign=assign)

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the output layer, (C, width)."""
        weight: Tensor = self.network.output_weight
        return weight

    @property
    def output_bias(self) -> Tensor | None:
        """The bias of the output layer, (C,)."""
        bias: Tensor | None = self.network.output_bias
        return bias

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers of a network that lists them."""
        blocks: nn.ModuleList = self.network.blocks
        return blocks

    def states(self, tokens: Ragged) -> Tensor:
        """Return the final states of the labelled positions, (P, width).

        Args:
            tokens: Token ids of B rows, with marks.
        """
        states: Tensor = self.network.states(tokens)
        return states

    def _states_and_outputs(self, tokens: Ragged) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the final states of the labelled positions, (P, width), and the other outputs by head."""
        final, states = self.network.layer_states(tokens, list(self.layers.values()))
        return final, {
            name: self.projections[name](state) if name in self.projections else state
            for name, state in zip(self.layers, states, strict=True)
        }

    def forward(self, tokens: Ragged) -> dict[str, Tensor]:
        """Return the outputs by head.

        Args:
            tokens: Token ids of B rows, with marks.
        """
        final, outputs = self._states_and_outputs(tokens)
        return {self.main: self.network.project(final) if is_sliceable(self.network) else final} | outputs


def with_hidden_states(model: Model, layers: Sequence[int]) -> Model:
    """Return a model that also predicts the states of some layers, as heads ``hidden_K`` of kind ``embedding``.

    The digest of the model is unchanged: the same weights compute the same logits.

    Args:
        model: A language model or token classifier of the kinds gpt, run and hf.
        layers: Numbers of layers; negative ones count from the last.

    Raises:
        InvalidArgument: The model does not show its layers, or has no such layer.

    Example:
        >>> from softlabels import models
        >>> heads = {"logits": OutputHead(classes=9, kind="tokens", shape=(None,))}
        >>> model = models.build("gpt:layers=2,width=16,heads=2", input_shape=(), heads=heads)
        >>> list(with_hidden_states(model, [1, -1]).heads)
        ['logits', 'hidden_1', 'hidden_2']
    """
    network: Any = model.module
    if model.user_code or not callable(getattr(network, "layer_states", None)):
        raise InvalidArgument(
            f"hidden: {model.spec} does not show its layers, got {type(network).__name__}; expected a language model "
            "or token classifier of hf:PATH, or a run of gpt. A Python teacher may return any head itself"
        )
    count = int(network.layers_count)
    numbers = [check_layer(layer, count) for layer in layers]
    repeated = next((number for number in numbers if numbers.count(number) > 1), None)
    if repeated is not None:
        raise InvalidArgument(f"hidden: layer {repeated} is named twice; expected each layer once")
    names = {f"{PREFIX}{number}": number for number in numbers}
    head = OutputHead(classes=int(network.width), kind="embedding", shape=(None,))
    main = next(iter(model.heads))
    return replace(
        model,
        module=HiddenStates(network, names, main),
        heads={**model.heads, **dict.fromkeys(names, head)},
        identity=CodeIdentity(model.digest, model.digest_covers),
    )


def with_hidden_heads(network: nn.Module, heads: Mapping[str, OutputHead], spec: str) -> nn.Module:
    """Return a network to train with a head for each hidden layer of a teacher; the network itself if there is none.

    The layers of the teacher, in their order, are matched with layers of the network that are spread evenly, the last
    with the last.

    Args:
        network: Network with ``layer_states``.
        heads: Heads to learn, by name.
        spec: MODEL specification that messages name.

    Raises:
        InvalidArgument: A head has another kind, or the network does not show its layers.
    """
    hidden, main = split_heads(heads)
    if not hidden:
        return network
    if not callable(getattr(network, "layer_states", None)) or len(main) != 1:
        raise InvalidArgument(
            f"MODEL {spec!r}: cannot learn hidden states, got {', '.join(heads)}; expected one head of tokens and a "
            "language model of gpt or hf"
        )
    count = int(network.layers_count)  # type: ignore[arg-type]  # a number, as layer_states shows
    ordered = sorted(hidden, key=lambda name: int(name.removeprefix(PREFIX)))
    layers = {name: -(-count * (index + 1) // len(ordered)) for index, name in enumerate(ordered)}
    return HiddenStates(network, layers, next(iter(main)), {name: head.classes for name, head in hidden.items()})


def split_heads(heads: Mapping[str, OutputHead]) -> tuple[dict[str, OutputHead], dict[str, OutputHead]]:
    """Return the heads that are hidden states, and the others.

    Args:
        heads: Heads by name.
    """
    hidden = {
        name: head for name, head in heads.items()
        if head.kind == "embedding" and head.ragged and name.removeprefix(PREFIX).isdecimal()
    }  # fmt: skip
    return hidden, {name: head for name, head in heads.items() if name not in hidden}


def check_layer(layer: int, count: int) -> int:
    """Return the number of a layer, counted from 0.

    Args:
        layer: Number of the layer; a negative one counts from the last.
        count: Number of blocks of the network.

    Raises:
        InvalidArgument: There is no such layer.
    """
    number = layer + count + 1 if layer < 0 else layer
    if not 0 <= number <= count:
        raise InvalidArgument(f"hidden: no such layer, got {layer}; expected 0 (the embedding) to {count}, or -1 to "
                              f"{-count - 1}")  # fmt: skip
    return number
