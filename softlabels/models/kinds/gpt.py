"""``gpt``: a decoder-only transformer for next-token prediction.

Pre-norm blocks of causal attention and a gated feed-forward layer, with root-mean-square norms, rotary positions, no
biases, and one matrix for the embedding and the output layer, as in Llama. Parameters: V W + layers * 12 W^2 for a
vocabulary of V tokens and width W; about 2 * parameters FLOPs per token, and attention on top.

Attention never crosses the documents of a packed row, and positions restart in each. The network returns logits for the
labelled positions alone. ``states`` and ``project`` split that in two, so that long sequences need not hold the logits
of all positions at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from softlabels.errors import InvalidArgument
from softlabels.models.heads import OutputHead
from softlabels.models.hidden_states import split_heads, with_hidden_heads
from softlabels.models.kind import Kind, ModelSpec, Option
from softlabels.sources import Ragged
from softlabels.text.padding import PaddedTokens, pad

ROTARY_BASE = 10_000.0
INITIAL_DEVIATION = 0.02
HEAD_WIDTH = 64
"""Width of an attention head if the specification does not name their number."""


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864).

    Args:
        width: Width of an attention head, even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pairs = width // 2

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, (B, 1, L, width / 2) float32 each.

        Args:
            positions: Position of each token within its document, (B, L).
        """
        steps = torch.arange(self.pairs, device=positions.device, dtype=torch.float32)
        angles = positions[:, None, :, None] * ROTARY_BASE ** (-steps / self.pairs)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return queries or keys rotated by their positions.

    Args:
        x: (B, heads, L, width).
        cosines: As Rotary returns them.
        sines: As Rotary returns them.
    """
    first, second = x.chunk(2, dim=-1)
    cosines, sines = cosines.to(x.dtype), sines.to(x.dtype)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each added to its input.

    Args:
        width: Width of the states.
        heads: Number of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        hidden = 8 * width // 3
        self.attention_norm, self.feed_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.feed_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """Return (B, L, width).

        Args:
            x: (B, L, width).
            rotary: Cosines and sines of the positions.
            bias: Additive mask (B, 1, L, L); None: plain causal attention.
        """
        projected = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=None if bias is None else bias.to(query.dtype), is_causal=bias is None
        )
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.feed_norm(x)).chunk(2, dim=-1)
        result: Tensor = x + self.feed_out(functional.silu(gate) * up)
        return result


class GPT(nn.Module):
    """A decoder that predicts the next token.

    Args:
        vocabulary: Number of tokens V.
        layers: Number of blocks.
        width: Width of the states.
        heads: Number of attention heads.

    Raises:
        InvalidArgument: The width is not divisible into heads of even width.
    """

    predicts_next = True

    def __init__(self, vocabulary: int, *, layers: int, width: int, heads: int) -> None:
        super().__init__()
        if width % (2 * heads):
            raise InvalidArgument(
                f"MODEL gpt: the width does not divide into heads, got width={width},heads={heads}; expected a "
                f"multiple of {2 * heads}"
            )
        self.embedding = nn.Embedding(vocabulary, width)
        self.rotary = Rotary(width // heads)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                # Layers that are added to the residual stream start smaller, so that its variance does not grow.
                shrink = math.sqrt(2 * layers) if name.endswith("_out.weight") else 1.0
                nn.init.normal_(weight, std=INITIAL_DEVIATION / shrink)

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the output layer, (V, width)."""
        return self.embedding.weight

    @property
    def output_bias(self) -> None:
        """None, since the output layer has no bias."""

    def states(self, tokens: Ragged) -> Tensor:
        """Return the final states of the labelled positions, (P, width).

        Args:
            tokens: Token ids of B rows, with marks.
        """
        padded = pad(tokens.values, tokens.lengths, tokens.marks)
        return self.padded_states(padded).flatten(0, 1)[padded.labelled]

    @property
    def layers_count(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """The width of the states."""
        return int(self.embedding.embedding_dim)

    def layer_states(self, tokens: Ragged, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the final states of the labelled positions, (P, width), and those of some layers.

        Args:
            tokens: Token ids of B rows, with marks.
            layers: Numbers of layers: 0 is the embedding, the last one the final state.
        """
        padded = pad(tokens.values, tokens.lengths, tokens.marks)
        states = {
            number: state.flatten(0, 1)[padded.labelled]
            for number, state in enumerate(self.all_states(padded))
            if number in layers or number == self.layers_count
        }
        return states[self.layers_count], [states[layer] for layer in layers]

    def padded_states(self, padded: PaddedTokens) -> Tensor:
        """Return the final states of all positions, (B, L, width).

        Args:
            padded: Rows padded on the right.

        Raises:
            ValueError: The network has no layers.
        """
        final: Tensor | None = None
        for state in self.all_states(padded):
            final = state
        if final is None:
            raise ValueError("a network without layers")
        return final

    def all_states(self, padded: PaddedTokens) -> Iterator[Tensor]:
        """Yield the states of all positions, (B, L, width): the embedding, each block, the last of them normalised.

        Args:
            padded: Rows padded on the right.
        """
        x = self.embedding(padded.ids)
        yield x
        rotary = self.rotary(padded.positions)
        # Padding on the right is invisible to earlier positions, so only packed rows need a mask.
        bias = padded.attention_bias(x.dtype) if padded.packed else None
        for block in self.blocks[:-1]:
            x = block(x, rotary, bias)
            yield x
        yield self.norm(self.blocks[-1](x, rotary, bias))

    def project(self, states: Tensor) -> Tensor:
        """Return logits, (P, V).

        Args:
            states: Final states, (P, width).
        """
        return functional.linear(states, self.output_weight)

    def forward(self, tokens: Ragged) -> Tensor:
        """Return the logits of the labelled positions, (P, V).

        Args:
            tokens: Token ids of B rows, with marks; without marks every position is labelled.
        """
        return self.project(self.states(tokens))


def build(spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]) -> nn.Module:
    """Return a freshly initialised network.

    Args:
        spec: Specification of the network.
        input_shape: Shape of one input.
        heads: Outputs by name.

    Raises:
        InvalidArgument: The heads are not one head of tokens, and hidden states beside it.
    """
    hidden, others = split_heads(heads)
    ragged = [head for head in heads.values() if head.kind == "tokens" and head.ragged]
    if len(others) != 1 or len(ragged) != 1:
        listed = ", ".join(f"{name} ({head.kind})" for name, head in heads.items())
        raise InvalidArgument(
            f"MODEL {str(spec)!r}: predicts the next token, got heads {listed}; expected one head of tokens, and "
            "hidden states beside it"
        )
    width = int(spec.options["width"])
    count = int(spec.options["heads"]) or max(1, width // HEAD_WIDTH)
    network = GPT(ragged[0].classes, layers=int(spec.options["layers"]), width=width, heads=count)
    return with_hidden_heads(network, heads, str(spec)) if hidden else network


KIND = Kind(
    name="gpt",
    form="gpt:layers=4,width=256,heads=4",
    options={
        "layers": Option(default=4, maximum=256),
        "width": Option(default=256),
        "heads": Option(default=0, minimum=0, maximum=1_024),
    },
    build=build,
)
