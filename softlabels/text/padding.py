"""Ragged rows of tokens as padded tensors, and the attention that packed rows need.

Rows are padded on the right by default: a causal model then never attends to padding. Masks are additive, because a
boolean mask of four dimensions is silently wrong under the eager attention of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softlabels.text.rows import LABELLED, SECOND, START


@dataclass(frozen=True)
class PaddedTokens:
    """A batch of B rows, padded to the longest with L tokens.

    Attributes:
        ids: Token ids, (B, L) int64.
        valid: True if a position holds a token, (B, L).
        positions: Position of each token within its document, (B, L) int64; 0 where padded.
        documents: Number of each token's document within its row, (B, L) int64; -1 where padded.
        labelled: Index into the flattened (B * L,) positions of each labelled position, in row order, (P,).
        second: True if a token belongs to the second text of a pair, (B, L).
        packed: True if a row holds several documents.
    """

    ids: Tensor
    valid: Tensor
    positions: Tensor
    documents: Tensor
    labelled: Tensor
    second: Tensor
    packed: bool

    def attention_bias(self, dtype: torch.dtype, *, causal: bool = True) -> Tensor:
        """Return the additive mask that confines attention to a document, (B, 1, L, L): 0 or the least value.

        Padded positions attend to themselves, so that no row of the softmax is empty.

        Args:
            dtype: Dtype of the attention scores.
            causal: If True, a token attends to itself and to earlier ones alone.
        """
        allowed = self.documents[:, :, None] == self.documents[:, None, :]
        if causal:
            allowed &= self.valid.new_ones(allowed.shape[1:]).tril()
        return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def pad(
    values: Tensor, lengths: Tensor, marks: Tensor | None = None, *, side: str = "right", token: int = 0
) -> PaddedTokens:
    """Pad rows of tokens to the longest.

    Args:
        values: Token ids of all rows one after the other, (N,).
        lengths: Tokens of each row, (B,).
        marks: Marks of each token, (N,); None: each row is one document, and every position is labelled.
        side: Side of the padding, ``right`` or ``left``.
        token: Id of the padding.

    Example:
        >>> pad(torch.tensor([5, 6, 7]), torch.tensor([1, 2])).ids
        tensor([[5, 0],
                [6, 7]])
    """
    lengths = lengths.to(values.device)
    rows, longest = len(lengths), int(lengths.max()) if len(lengths) else 0
    columns = torch.arange(longest, device=values.device)
    offset = (longest - lengths)[:, None] if side == "left" else 0
    valid = (columns >= offset) & (columns < lengths[:, None] + offset)
    shape = (rows, longest)
    ids = torch.full(shape, token, dtype=torch.int64, device=values.device)
    ids[valid] = values.long()
    flags = torch.full(shape, 0, dtype=torch.uint8, device=values.device)
    flags[valid] = torch.full_like(values, LABELLED, dtype=torch.uint8) if marks is None else marks
    first = (valid.cumsum(1) == 1) & valid
    starts = ((flags & START) > 0) | first
    documents = (starts.cumsum(1) - 1).masked_fill(~valid, -1)
    begins = (starts * columns).cummax(1).values
    positions = (columns - begins).masked_fill(~valid, 0)
    labelled = ((flags & LABELLED) > 0).flatten().nonzero()[:, 0]
    second = (flags & SECOND) > 0
    return PaddedTokens(ids, valid, positions, documents, labelled, second, bool((documents > 0).any()))
