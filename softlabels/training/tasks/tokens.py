"""Terms of models that predict the next token: means over the positions whose next token is of the same document.

Networks with a large vocabulary are trained through their final states, so that the logits of all positions are never
held (``language.uses_states``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from softlabels import losses
from softlabels.labels import SparseLabels
from softlabels.loading import Batch
from softlabels.losses import NO_LABEL
from softlabels.models import Model
from softlabels.text import next_tokens
from softlabels.training.language import STATES
from softlabels.training.tasks.loss_spec import WeightedLoss
from softlabels.training.tasks.objective import Outputs, Term
from softlabels.training.tasks.soft_targets import SoftTargets, name_of


def hard_token_term(model: Model, *, weight: float = 1.0) -> Term:
    """Return the cross-entropy with the next token.

    Args:
        model: The model that is trained.
        weight: Factor of the term.
    """

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        return _cross_entropy(model, outputs, *next_token_targets(batch))

    return Term(name="cross_entropy", loss=loss, count=count_next_tokens, weight=weight)


def soft_token_term(
    model: Model, head: str, loss: WeightedLoss, labels: SoftTargets, *, temperature: float, weight: float = 1.0
) -> Term:
    """Return a loss against soft labels of the next token.

    Args:
        model: The model that is trained.
        head: Head that is trained.
        loss: The loss.
        labels: Returns the soft labels of a batch.
        temperature: Temperature of losses that have one.
        weight: Factor of the term, beside that of the loss.
    """
    options = loss.arguments(temperature)

    def value(outputs: Outputs, batch: Batch) -> Tensor:
        following, counts = next_token_targets(batch)
        module: Any = model.module
        if STATES in outputs and loss.loss.name == "kl":
            weights = {"bias": module.output_bias, "temperature": temperature, "mask": counts}
            return losses.linear_kl(outputs[STATES], module.output_weight, labels(batch), **weights)
        logits = module.project(outputs[STATES]) if STATES in outputs else outputs[head]
        more = (following.masked_fill(~counts, NO_LABEL),) if loss.loss.hard else ()
        result: Tensor = loss.loss.function(logits, labels(batch), *more, mask=counts, **options)
        return result

    return Term(
        name=name_of(loss, temperature),
        loss=value,
        count=count_next_tokens,
        weight=weight * loss.weight,
        is_soft=True,
    )


def mixed_token_term(
    model: Model, head: str, loss: WeightedLoss, labels: SoftTargets, *, temperature: float, alpha: float
) -> Term:
    """Return alpha * KL to soft labels + (1 - alpha) * the cross-entropy with the next token, in one pass.

    Args:
        model: A model that is trained through its final states.
        head: Head that is trained.
        loss: The loss ``kl``.
        labels: Returns the soft labels of a batch.
        temperature: Temperature of the KL.
        alpha: Weight of the soft labels.
    """
    module: Any = model.module

    def value(outputs: Outputs, batch: Batch) -> Tensor:
        following, counts = next_token_targets(batch)
        return losses.linear_distillation(
            outputs[STATES],
            module.output_weight,
            labels(batch),
            following,
            bias=module.output_bias,
            temperature=temperature,
            alpha=alpha,
            mask=counts,
        )

    name = f"{alpha:g} * {name_of(loss, temperature)} + {1 - alpha:g} * cross_entropy"
    return Term(name=name, loss=value, count=count_next_tokens, is_soft=True)


def next_token_targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the next token of each labelled position, (N,), and whether it counts, (N,) bool.

    Args:
        batch: Batch of ragged token ids.
    """
    inputs = batch.inputs
    ids, lengths, marks = (_as_array(array) for array in (inputs.values, inputs.lengths, inputs.marks))
    following, counts = next_tokens(ids, lengths, marks)
    return torch.from_numpy(following), torch.from_numpy(counts)


def next_token_mask(batch: Batch) -> Tensor:
    """Return which positions of a batch count, (N,) bool.

    Args:
        batch: Batch of ragged token ids.
    """
    return next_token_targets(batch)[1]


def count_next_tokens(batch: Batch) -> int:
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
        unbiased=True,  # no tail, which would cost passes over all classes
    )
    return losses.linear_kl(outputs[STATES], module.output_weight, certain, bias=module.output_bias, mask=counts)
