"""Terms of models that predict the next token: means over the positions whose next token is of the same document.

Networks with a large vocabulary are trained through their final states, so that the logits of all positions are never
held (``language.uses_states``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from softlabels import losses
from softlabels.labels import SoftLabels, SparseLabels
from softlabels.loading import Batch
from softlabels.models import Model
from softlabels.text import next_tokens
from softlabels.training.language import STATES
from softlabels.training.tasks.objective import Outputs, Term


def hard_token_term(model: Model, *, weight: float = 1.0) -> Term:
    """Return the cross-entropy with the next token.

    Args:
        model: The model that is trained.
        weight: Factor of the term.
    """

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        return _cross_entropy(model, outputs, *next_token_targets(batch))

    return Term(name="cross_entropy", loss=loss, count=count_positions, weight=weight)


def soft_token_term(
    model: Model, head: str, labels: Callable[[Batch], SoftLabels], *, temperature: float, weight: float = 1.0
) -> Term:
    """Return the KL divergence from soft labels of the next token.

    Args:
        model: The model that is trained.
        head: Head that is trained.
        labels: Returns the soft labels of a batch.
        temperature: Temperature of the KL.
        weight: Factor of the term.
    """

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        counts = next_token_targets(batch)[1]
        if STATES not in outputs:
            return losses.kl(outputs[head], labels(batch), temperature=temperature, mask=counts)
        module: Any = model.module
        return losses.linear_kl(
            outputs[STATES], module.output_weight, labels(batch), bias=module.output_bias, temperature=temperature,
            mask=counts,
        )  # fmt: skip

    return Term(name=f"kl at T = {temperature:g}", loss=loss, count=count_positions, weight=weight)


def next_token_targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the next token of each labelled position, (N,), and whether it counts, (N,) bool.

    Args:
        batch: Batch of ragged token ids.
    """
    inputs = batch.inputs
    ids, lengths, marks = (_as_array(array) for array in (inputs.values, inputs.lengths, inputs.marks))
    following, counts = next_tokens(ids, lengths, marks)
    return torch.from_numpy(following), torch.from_numpy(counts)


def count_positions(batch: Batch) -> int:
    """Return the number of positions of a batch whose next token counts.

    Args:
        batch: Batch of ragged token ids.
    """
    return int(next_token_targets(batch)[1].sum())


def _as_array(array: Any) -> Any:
    return np.asarray(array.cpu().numpy() if isinstance(array, Tensor) else array)


def _cross_entropy(model: Model, outputs: Outputs, following: Tensor, counts: Tensor) -> Tensor:
    """Return the mean cross-entropy of the next token over the positions that count."""
    if STATES not in outputs:
        logits = next(iter(outputs.values()))
        chosen = counts.to(logits.device)
        return functional.cross_entropy(logits[chosen].float(), following.to(logits.device)[chosen])
    module: Any = model.module
    certain = SparseLabels(
        classes=next(iter(model.heads.values())).classes,
        ids=following.numpy()[:, None],
        values=np.zeros((len(following), 1), np.float32),
        temperatures=(1.0,),
        log_tail=np.full((len(following), 1), -np.inf, np.float32),
    )
    return losses.linear_kl(outputs[STATES], module.output_weight, certain, bias=module.output_bias, mask=counts)
