"""A collator and a loss function with which a Hugging Face Trainer trains from soft labels.

    dataset = LabelDataset(store, inputs=TokenSource(texts["input_ids"]))
    trainer = Trainer(model, args, train_dataset=dataset, **trainer_arguments(dataset, model, temperature=2.0))

Position i of a causal model predicts token i + 1, so L tokens have L - 1 positions with labels. If the last position
has labels too, they are dropped. The Trainer's count of predicted tokens normalizes the loss, so that accumulated
gradients and several processes give the mean over all tokens of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import get_worker_info

from softlabels.errors import InvalidArgument, LabelsMisaligned, TemperatureNotStored
from softlabels.labels import SoftLabels, same_temperature
from softlabels.loading.adapters.torch_datasets import LabelDataset
from softlabels.loading.batch import Batch, map_labels
from softlabels.loading.collate.concat import concat_batches
from softlabels.loading.ensemble import Ensemble, stores_of
from softlabels.loading.shared_memory import as_tensor, shared, with_shared_prior
from softlabels.losses import NO_LABEL, distillation
from softlabels.sources import Ragged
from softlabels.store import Store

IGNORED = -100
"""The hard label of a position without one, as transformers define it."""


class SoftTargets(Tensor):
    """A tensor of hard labels that carries soft labels from the collator through a Trainer to the loss.

    To all other code it is a tensor of token ids, (B, L) int64, with -100 for padding and for the first token, which
    no position predicts. A Trainer counts and gathers them and passes them to ``compute_metrics``. Results of
    operations are plain tensors; moving and pinning preserve the soft labels.

    Attributes:
        soft: Soft labels of (B * L) positions. Positions that predict nothing hold those of another and are masked.
    """

    soft: SoftLabels
    # torch documents this for classes whose operations return plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001

    def __new__(cls, soft: SoftLabels, hard: Tensor) -> Self:
        """Attach soft labels to a (B, L) tensor, over the same memory."""
        targets = hard.as_subclass(cls)
        targets.soft = soft
        return targets

    def __reduce_ex__(self, protocol: Any) -> tuple[type[SoftTargets], tuple[SoftLabels, Tensor]]:
        """Pickle the two components, which worker processes pass on without a copy."""
        return SoftTargets, (self.soft, self.hard)

    @property
    def hard(self) -> Tensor:
        """The token ids as a plain tensor."""
        return self.as_subclass(Tensor)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> SoftTargets:  # type: ignore[override]
        """Return hard and soft labels on a device."""
        moved = map_labels(self.soft, lambda value: torch.as_tensor(value).to(device, non_blocking=non_blocking))
        return SoftTargets(moved, self.hard.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SoftTargets:  # type: ignore[override]
        """Return hard and soft labels in page-locked memory."""
        return SoftTargets(
            map_labels(self.soft, lambda value: torch.as_tensor(value).pin_memory()), self.hard.pin_memory()
        )


class TokenCollator:
    """Collator of a LabelDataset's token sequences for a causal language model; pads on the right.

    Args:
        head: Name of the head.
        pad_id: Token id of the padding, which is masked.
    """

    def __init__(self, *, head: str = "logits", pad_id: int = 0) -> None:
        self._head = head
        self._pad_id = pad_id

    def __call__(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """Return the model's inputs, and ``labels`` for TokenLoss.

        Raises:
            InvalidArgument: Inputs that are not token ids, or labels that are not per token.
            LabelsMisaligned: A sequence of L tokens with labels of other than L - 1 or L positions.
            StorageFailed: In a worker, if /dev/shm is full.
        """
        batch = concat_batches(batches)
        tokens, lengths = _sequences(batch)
        labels = batch.targets[self._head]
        rows = _rows_of_labels(labels, lengths, batch.rows)
        real: NDArray[np.bool_] = np.arange(lengths.max()) < lengths[:, None]
        ids: NDArray[np.int64] = np.full(real.shape, self._pad_id, np.int64)
        ids[real] = tokens
        starts = np.cumsum(rows) - rows
        predicted = np.arange(ids.shape[1]) < lengths[:, None] - 1
        positions = np.where(predicted, starts[:, None] + np.arange(ids.shape[1]), 0).reshape(-1)
        hard = np.where(real, ids, IGNORED)
        hard[:, 0] = IGNORED
        soft = replace(labels, lengths=None).take(positions)

        def build(change: Callable[[Any], Any]) -> tuple[Any, Any, SoftLabels, Any]:
            return change(ids), change(real.astype(np.int64)), map_labels(soft, change), change(hard)

        if get_worker_info() is None:
            input_ids, mask, soft, targets = build(as_tensor)
        else:
            input_ids, mask, soft, targets = shared(build)
            soft = with_shared_prior(soft)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": SoftTargets(soft, targets)}


class TokenLoss:
    """The loss of a causal language model, for ``Trainer(compute_loss_func=...)``: losses.distillation over positions.

    Args:
        temperature: Temperature of the KL term.
        alpha: Weight of the soft labels, 0 to 1. The tokens have weight 1 - alpha.
    """

    def __init__(self, *, temperature: float = 1.0, alpha: float = 0.9) -> None:
        self._temperature = temperature
        self._alpha = alpha

    def __call__(self, outputs: Any, labels: SoftTargets, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Return the mean loss over the predicted tokens of a step.

        Args:
            outputs: Output of the model, with logits (B, L, C).
            labels: Labels that TokenCollator made.
            num_items_in_batch: Number of predicted tokens in all batches of the step. None: those of this batch.

        Raises:
            InvalidArgument: Logits of other positions or of another vocabulary than the labels.
        """
        following = functional.pad(labels.hard[:, 1:], (0, 1), value=IGNORED)
        mask = following != IGNORED
        loss = distillation(
            _logits(outputs),
            labels.soft,
            None if self._alpha == 1 else following.masked_fill(~mask, NO_LABEL),
            temperature=self._temperature,
            alpha=self._alpha,
            mask=mask,
        )
        return loss if num_items_in_batch is None else loss * mask.sum() / num_items_in_batch


def trainer_arguments(
    dataset: LabelDataset,
    model: nn.Module,
    *,
    head: str = "logits",
    temperature: float = 1.0,
    alpha: float = 0.9,
    pad_id: int = 0,
) -> dict[str, Any]:
    """Return ``data_collator`` and ``compute_loss_func`` for a Trainer, after checking that labels and student fit.

    Args:
        dataset: Dataset of token sequences with their labels.
        model: Student, a causal language model of transformers.
        head: Name of the head.
        temperature: Temperature of the KL term.
        alpha: Weight of the soft labels, 0 to 1. The tokens have weight 1 - alpha.
        pad_id: Token id of the padding.

    Raises:
        InvalidArgument: No such head, or another vocabulary than the student's.
        TemperatureNotStored: The labels hold no tail mass at this temperature; lists the temperatures they hold.
    """
    check_student(dataset.store, model, head=head, temperature=temperature)
    return {
        "data_collator": TokenCollator(head=head, pad_id=pad_id),
        "compute_loss_func": TokenLoss(temperature=temperature, alpha=alpha),
    }


def check_student(store: Store | Ensemble, model: nn.Module, *, head: str = "logits", temperature: float = 1.0) -> None:
    """Check that a student of transformers can be trained on labels, before the first step.

    Args:
        store: Store or Ensemble of the labels.
        model: Student.
        head: Name of the head.
        temperature: Temperature of the KL term.

    Raises:
        InvalidArgument: No such head, or another vocabulary than the student's.
        TemperatureNotStored: The labels hold no tail mass at this temperature; lists the temperatures they hold.
    """
    first = stores_of(store)[0]
    first.head_columns(head)
    classes = store.heads[head].classes
    output = getattr(model, "get_output_embeddings", lambda: None)()
    width = getattr(getattr(model, "config", None), "vocab_size", None) if output is None else len(output.weight)
    if width is not None and width != classes:
        raise InvalidArgument(
            f"student: the vocabulary differs from the labels', got {width:,} tokens and {classes:,} classes in "
            f"{first.storage}; expected equal numbers. One of the two may be padded, or of another tokenizer: resize "
            "the student's embeddings, or generate labels with a teacher that has the student's vocabulary"
        )
    if isinstance(store, Ensemble):
        if not same_temperature(temperature, store.temperature):
            raise TemperatureNotStored(
                f"temperature: an ensemble is averaged at one temperature, got {temperature:g}; expected "
                f"{store.temperature:g}. Make the Ensemble with temperature={temperature:g}"
            )
        return
    first.read([0], head).take(np.zeros(1, np.int64)).log_probs(temperature)


def _sequences(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the token ids of all sequences, concatenated, and the number of tokens of each."""
    inputs = batch.inputs
    if isinstance(inputs, Ragged):
        return inputs.values, inputs.lengths
    if isinstance(inputs, np.ndarray) and inputs.ndim == 2 and inputs.dtype.kind in "iu":
        return inputs.reshape(-1).astype(np.int64), np.full(len(inputs), inputs.shape[1])
    kind = f"{inputs.dtype} of shape {inputs.shape}" if isinstance(inputs, np.ndarray) else type(inputs).__name__
    raise InvalidArgument(
        f"inputs: TokenCollator is for causal language models, got {kind}; expected token ids. Give the dataset "
        "inputs=TokenSource(...) or an (n, L) array of integers. For other models, pass collate_fn=collate to a "
        "DataLoader and compute the loss with softlabels.losses"
    )


def _rows_of_labels(labels: SoftLabels, tokens: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of positions of each sequence that have labels: one fewer than its tokens, or as many."""
    if labels.lengths is None:
        raise InvalidArgument(
            "labels: TokenCollator needs labels of every token, got one row per example; expected a head of kind "
            "tokens and shape (None,)"
        )
    lengths = np.asarray(labels.lengths, np.int64)
    differs = (lengths != tokens - 1) & (lengths != tokens)
    if differs.any():
        index = int(differs.argmax())
        raise LabelsMisaligned(
            f"inputs: row {rows[index]} has {tokens[index]} tokens, but labels of {lengths[index]} positions; expected "
            f"{tokens[index] - 1}. Use the text, tokenizer and truncation that the labels were made with"
        )
    return lengths


def _logits(outputs: Any) -> Tensor:
    logits: Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
    return logits
