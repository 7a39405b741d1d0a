"""Networks of the transformers library behind the interface of this package: token rows in, tensors by head out.

Rows are padded on the right. Causal models then need no padding mask, and packed rows are confined to their documents
by positions that restart, from which transformers builds the mask of the architecture, sliding windows included.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softlabels.errors import InvalidArgument
from softlabels.sources import Ragged
from softlabels.text import LABELLED, START
from softlabels.text.padding import PaddedTokens, pad

PACKING_TOLERANCE = 1e-2
"""Relative difference of packed and separate documents above which attention crosses them; rounding is far below."""

LOGIT_CHANGES = (
    "final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_scale",
)  # fmt: skip
"""Attributes of configurations whose models change logits after the output layer."""


class TransformersNetwork(nn.Module):
    """A network of transformers.

    Args:
        network: The model with its output layer.
    """

    predicts_next = False
    """If True, entry i of a ragged head belongs to the prediction of token i + 1, else to token i itself."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]  # passed on
        """Return the state without the second names of tied weights, which safetensors cannot hold."""
        state: dict[str, Any] = super().state_dict(*args, **options)
        prefix = options.get("prefix", "")
        return {name: value for name, value in state.items() if name.removeprefix(prefix) not in self._second_names()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: FBT001, FBT002  as torch
        """Load a state that ``state_dict`` returned, and tie weights again.

        Raises:
            RuntimeError: Weights are missing or unexpected, and ``strict`` is True.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in result.missing_keys if name not in self._second_names()]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(f"missing weights {missing[:3]}, unexpected weights {result.unexpected_keys[:3]}")
        self.network.tie_weights()
        return result

    def _second_names(self) -> set[str]:
        first = {name for name, _ in self.named_parameters()}
        return {name for name, _ in self.named_parameters(remove_duplicate=False)} - first

    @property
    def max_positions(self) -> int | None:
        """The number of positions that the architecture has; None if it is not limited."""
        config = self.network.config
        limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(limit) if limit else None

    @property
    def placed(self) -> bool:
        """True if transformers placed the layers on devices, so that the network must not be moved."""
        return getattr(self.network, "hf_device_map", None) is not None

    @property
    def layers_count(self) -> int:
        """The number of blocks."""
        return int(self.network.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """The width of the states."""
        return int(self.network.config.hidden_size)

    def padded(self, tokens: Ragged) -> PaddedTokens:
        """Return the rows padded on the right, once their ids and lengths are sure to be valid.

        Args:
            tokens: Token ids of B rows.

        Raises:
            InvalidArgument: A token id has no embedding, or a document exceeds the positions of the architecture.
        """
        token = self.network.config.pad_token_id
        padded = pad(tokens.values, tokens.lengths, tokens.marks, token=token or 0)
        vocabulary = self.network.get_input_embeddings().num_embeddings
        if padded.ids.numel() and int(padded.ids.max()) >= vocabulary:
            row = int((padded.ids >= vocabulary).any(dim=1).nonzero()[0])
            raise InvalidArgument(
                f"row {row} of the batch: token id out of range, got {int(padded.ids.max())}; expected ids below "
                f"{vocabulary}. Use the tokenizer of this model"
            )
        longest, limit = int(padded.positions.max()) + 1 if padded.ids.numel() else 0, self.max_positions
        if limit is not None and longest > limit:
            row = int((padded.positions >= limit).any(dim=1).nonzero()[0])
            raise InvalidArgument(
                f"row {row} of the batch: too long for the model, got {longest} tokens; expected at most {limit}. Use "
                "pack= or max_tokens="
            )
        return padded


class CausalLM(TransformersNetwork):
    """A causal language model whose logits are computed for all positions at once.

    Args:
        network: A model ``...ForCausalLM``.
    """

    predicts_next = True

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self._takes_positions = "position_ids" in inspect.signature(network.forward).parameters
        self._packing_checked = False

    def arguments(self, tokens: Ragged) -> tuple[dict[str, Any], PaddedTokens]:
        """Return the arguments of a forward pass, and the padded rows.

        Args:
            tokens: Token ids of B rows, with marks.

        Raises:
            InvalidArgument: The rows are packed, and attention of this architecture crosses documents.
        """
        padded = self.padded(tokens)
        if padded.packed and not self._packing_checked:
            self._packing_checked = True
            self._check_packing()
        arguments = {"input_ids": padded.ids, "use_cache": False}
        if padded.packed and self._takes_positions:
            # Only packed rows need positions: without them the fast path of plain causal attention stays open.
            arguments["position_ids"] = padded.positions
        return arguments, padded

    def forward(self, tokens: Ragged) -> Tensor:
        """Return the logits of the labelled positions, (P, C).

        Args:
            tokens: Token ids of B rows, with marks.
        """
        return self.layer_states(tokens, ())[0]

    def layer_states(self, tokens: Ragged, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the logits of the labelled positions, (P, C), and the states of some layers, (P, width) each.

        Args:
            tokens: Token ids of B rows, with marks.
            layers: Numbers of layers: 0 is the embedding, the last one the final state.
        """
        arguments, padded = self.arguments(tokens)
        output = self.network(**arguments, output_hidden_states=bool(layers))
        states = [output.hidden_states[layer].flatten(0, 1)[padded.labelled] for layer in layers]
        return output.logits.flatten(0, 1)[padded.labelled], states

    def _check_packing(self) -> None:
        """Raise InvalidArgument if a document's outputs depend on the document before it."""
        vocabulary = self.network.get_input_embeddings().num_embeddings
        device = next(self.network.parameters()).device
        ids = torch.arange(1, 9, device=device) % vocabulary
        marks = torch.full((8,), LABELLED, dtype=torch.uint8, device=device)
        marks[[0, 4]] |= START
        with torch.no_grad():
            packed = self(Ragged(ids, torch.tensor([8], device=device), marks))[4:].float()
            alone = self(Ragged(ids[4:], torch.tensor([4], device=device), marks[4:])).float()
        difference = (packed - alone).abs().max() / alone.abs().max()
        if not difference <= PACKING_TOLERANCE:
            raise InvalidArgument(
                f"{type(self.network).__name__}: cannot take packed rows, got a relative difference of "
                f"{float(difference):.2g} between packed and separate documents; expected rounding. Leave out pack="
            )


class SlicedCausalLM(CausalLM):
    """A causal language model whose output layer is applied to slices of positions.

    Args:
        network: A model ``...ForCausalLM`` whose logits are its output layer of its final states.
    """

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the output layer, (C, width)."""
        weight: Tensor = self.network.get_output_embeddings().weight
        return weight

    @property
    def output_bias(self) -> Tensor | None:
        """The bias of the output layer, (C,)."""
        return getattr(self.network.get_output_embeddings(), "bias", None)

    def states(self, tokens: Ragged) -> Tensor:
        """Return the final states of the labelled positions, (P, width).

        Args:
            tokens: Token ids of B rows, with marks.
        """
        return self.layer_states(tokens, ())[0]

    def layer_states(self, tokens: Ragged, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the final states of the labelled positions, (P, width), and those of some layers.

        Args:
            tokens: Token ids of B rows, with marks.
            layers: Numbers of layers: 0 is the embedding, the last one the final state.
        """
        arguments, padded = self.arguments(tokens)
        output = self.network.base_model(**arguments, output_hidden_states=bool(layers))
        states = [output.hidden_states[layer].flatten(0, 1)[padded.labelled] for layer in layers]
        return output.last_hidden_state.flatten(0, 1)[padded.labelled], states

    def project(self, states: Tensor) -> Tensor:
        """Return logits, (P, C).

        Args:
            states: Final states, (P, width).
        """
        logits: Tensor = self.network.get_output_embeddings()(states)
        return logits

    def forward(self, tokens: Ragged) -> Tensor:
        """Return the logits of the labelled positions, (P, C).

        Args:
            tokens: Token ids of B rows, with marks.
        """
        return self.project(self.states(tokens))


class TokenClassifier(TransformersNetwork):
    """A model with one output per token: token classification, or a masked language model.

    Args:
        network: A model ``...ForTokenClassification`` or ``...ForMaskedLM``.
    """

    def forward(self, tokens: Ragged) -> Tensor:
        """Return the logits of all tokens, (N, C).

        Args:
            tokens: Token ids of B rows; packed rows are refused.
        """
        return self.layer_states(tokens, ())[0]

    def layer_states(self, tokens: Ragged, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the logits of all tokens, (N, C), and the states of some layers, (N, width) each.

        Args:
            tokens: Token ids of B rows; packed rows are refused.
            layers: Numbers of layers: 0 is the embedding, the last one the final state.
        """
        padded = self.padded(tokens)
        output = self.network(**mask_arguments(padded, self.network), output_hidden_states=bool(layers))
        return output.logits[padded.valid], [output.hidden_states[layer][padded.valid] for layer in layers]


class SequenceClassifier(TransformersNetwork):
    """A model with one output per row.

    Args:
        network: A model ``...ForSequenceClassification``.
    """

    def forward(self, tokens: Ragged) -> Tensor:
        """Return the logits of the rows, (B, C).

        Args:
            tokens: Token ids of B rows; packed rows are refused.

        Raises:
            InvalidArgument: The model needs a padding token to find the ends of rows, and has none.
        """
        padded = self.padded(tokens)
        if self.network.config.pad_token_id is None and not bool(padded.valid.all()):
            row = int((~padded.valid).any(dim=1).nonzero()[0])
            raise InvalidArgument(
                f"row {row} of the batch: shorter than others, and {type(self.network).__name__} has no padding token "
                "that shows its end; expected pad_token_id in config.json. Add it, or use batch_size=1"
            )
        logits: Tensor = self.network(**mask_arguments(padded, self.network)).logits
        return logits


class Encoder(TransformersNetwork):
    """A model without an output layer; the embedding of a row is the pooled state of its tokens.

    Args:
        network: An encoder.
        pooling: ``mean`` over the tokens, or ``first`` token.
        normalize: If True, embeddings have length 1.
    """

    def __init__(self, network: Any, *, pooling: str, normalize: bool) -> None:
        super().__init__(network)
        self.pooling = pooling
        self.normalize = normalize

    def forward(self, tokens: Ragged) -> Tensor:
        """Return the embeddings of the rows, (B, width).

        Args:
            tokens: Token ids of B rows; packed rows are refused.
        """
        padded = self.padded(tokens)
        states = self.network(**mask_arguments(padded, self.network)).last_hidden_state
        if self.pooling == "first":
            pooled = states[:, 0]
        else:
            weights = padded.valid[:, :, None].to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


def mask_arguments(padded: PaddedTokens, network: Any) -> dict[str, Any]:
    """Return the arguments of a model that attends in both directions.

    Args:
        padded: The rows.
        network: The model.

    Raises:
        InvalidArgument: The rows are packed.
    """
    if padded.packed:
        raise InvalidArgument(
            f"{type(network).__name__}: attends in both directions and cannot take packed rows, got several documents "
            "in a row; expected one. Leave out pack="
        )
    arguments: dict[str, Any] = {"input_ids": padded.ids, "attention_mask": padded.valid.long()}
    if getattr(network.config, "type_vocab_size", 0) > 1:
        arguments["token_type_ids"] = padded.second.long()
    return arguments


def changes_logits(config: Any) -> bool:
    """Return True if a model changes logits after its output layer.

    Args:
        config: Configuration of the model.
    """
    return any(getattr(config, name, None) not in {None, 1} for name in LOGIT_CHANGES)
