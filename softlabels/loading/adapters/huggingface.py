"""What a Hugging Face Trainer needs to train from soft labels: a collator and a loss function.

    dataset = LabelDataset(store, inputs=TokenSource(texts["input_ids"]))
    trainer = Trainer(model, args, train_dataset=dataset, **trainer_arguments(dataset, model, temperature=2.0))

A causal model's position i predicts token i + 1, so L tokens have L - 1 rows of labels; those of the last position,
where they were kept, are left out. The Trainer's count of predicted tokens normalises the loss, so that accumulating
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
from softlabels.loading.collate.concat import join_batches
from softlabels.loading.ensemble import Ensemble, stores_of
from softlabels.loading.shared_memory import as_tensor, shared, with_shared_prior
from softlabels.losses import NO_LABEL, distillation
from softlabels.sources import Ragged
from softlabels.store import Store

IGNORED = -100
"""What transformers call a position without a hard label."""


class SoftTargets(Tensor):
    """Hard labels with the soft ones beside them, as a Trainer carries them from the collator to the loss.

    To everybody else they are a tensor of token ids, (B, L) int64, with -100 for padding and for the first, which
    nothing predicts: a Trainer counts, gathers and hands them to ``compute_metrics``. Whatever is computed of them is a
    plain tensor; moving and pinning keep the soft labels.

    Attributes:
        soft: labels of (B * L) positions; those that predict nothing hold another's, and are masked.
    """

    soft: SoftLabels
    # What torch documents for classes whose results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001

    def __new__(cls, soft: SoftLabels, hard: Tensor) -> Self:
        """Labels beside a (B, L) tensor, whose memory is shared."""
        made = hard.as_subclass(cls)
        made.soft = soft
        return made

    def __reduce_ex__(self, protocol: Any) -> tuple[type[SoftTargets], tuple[SoftLabels, Tensor]]:
        """As its parts, which worker processes pass on without a copy."""
        return SoftTargets, (self.soft, self.hard)

    @property
    def hard(self) -> Tensor:
        """The token ids alone."""
        return self.as_subclass(Tensor)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> SoftTargets:  # type: ignore[override]
        """Both on a device."""
        moved = map_labels(self.soft, lambda value: torch.as_tensor(value).to(device, non_blocking=non_blocking))
        return SoftTargets(moved, self.hard.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SoftTargets:  # type: ignore[override]
        """Both in page-locked memory."""
        return SoftTargets(
            map_labels(self.soft, lambda value: torch.as_tensor(value).pin_memory()), self.hard.pin_memory()
        )


class TokenCollator:
    """Makes what a causal language model takes of a LabelDataset's token sequences: padded to the right.

    Args:
        head: which output of the teacher.
        pad_id: token id of the padding, which is masked.

    Raises:
        LabelsMisaligned: a sequence of L tokens with other than L - 1 or L rows of labels.
        StorageFailed: in a worker, where /dev/shm is full.
    """

    def __init__(self, *, head: str = "logits", pad_id: int = 0) -> None:
        self._head = head
        self._pad_id = pad_id

    def __call__(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """Model inputs, and ``labels`` for TokenLoss."""
        batch = join_batches(batches)
        tokens, lengths = _sequences(batch)
        labels = batch.targets[self._head]
        rows = _rows_of_labels(labels, lengths, batch.rows)
        real: NDArray[np.bool_] = np.arange(lengths.max()) < lengths[:, None]
        ids: NDArray[np.int64] = np.full(real.shape, self._pad_id, np.int64)
        ids[real] = tokens
        starts = np.cumsum(rows) - rows
        predicted = np.arange(ids.shape[1]) < lengths[:, None] - 1
        where = np.where(predicted, starts[:, None] + np.arange(ids.shape[1]), 0).reshape(-1)
        hard = np.where(real, ids, IGNORED)
        hard[:, 0] = IGNORED
        soft = replace(labels, lengths=None).take(where)

        def made(change: Callable[[Any], Any]) -> tuple[Any, Any, SoftLabels, Any]:
            return change(ids), change(real.astype(np.int64)), map_labels(soft, change), change(hard)

        if get_worker_info() is None:
            input_ids, mask, soft, targets = made(as_tensor)
        else:
            input_ids, mask, soft, targets = shared(made)
            soft = with_shared_prior(soft)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": SoftTargets(soft, targets)}


class TokenLoss:
    """The loss of a causal language model, for ``Trainer(compute_loss_func=...)``: losses.distillation over positions.

    Args:
        temperature: of the KL.
        alpha: weight of the soft labels against the tokens themselves, 0 to 1.
    """

    def __init__(self, *, temperature: float = 1.0, alpha: float = 0.9) -> None:
        self._temperature = temperature
        self._alpha = alpha

    def __call__(self, outputs: Any, labels: SoftTargets, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The mean over predicted tokens of all batches of a step, of which there are ``num_items_in_batch``.

        Raises:
            InvalidArgument: logits of other positions or another vocabulary than the labels.
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
    """``data_collator`` and ``compute_loss_func`` for a Trainer, once labels and student are sure to fit.

    Args:
        dataset: of token sequences with their labels.
        model: the student, a causal language model of transformers.
        head: which output of the teacher.
        temperature: of the KL.
        alpha: weight of the soft labels against the tokens themselves, 0 to 1.
        pad_id: token id of the padding.

    Raises:
        InvalidArgument: no such head, or another vocabulary than the student's.
        TemperatureNotStored: the labels hold no tail mass at this temperature; lists those they hold.
    """
    check_student(dataset.store, model, head=head, temperature=temperature)
    return {
        "data_collator": TokenCollator(head=head, pad_id=pad_id),
        "compute_loss_func": TokenLoss(temperature=temperature, alpha=alpha),
    }


def check_student(store: Store | Ensemble, model: nn.Module, *, head: str = "logits", temperature: float = 1.0) -> None:
    """Refuse labels that a student of transformers cannot be trained on, before the first step.

    Raises:
        InvalidArgument: no such head, or another vocabulary than the student's.
        TemperatureNotStored: the labels hold no tail mass at this temperature; lists those they hold.
    """
    first = stores_of(store)[0]
    first.head_columns(head)
    classes = store.heads[head].classes
    output = getattr(model, "get_output_embeddings", lambda: None)()
    width = getattr(getattr(model, "config", None), "vocab_size", None) if output is None else len(output.weight)
    if width is not None and width != classes:
        raise InvalidArgument(
            f"the student has a vocabulary of {width:,}, but the labels in {first.storage} have {classes:,} classes: "
            "they are of another tokenizer, or one of the two is padded. Give the student the labels' vocabulary, or "
            "generate labels with a teacher that has the student's"
        )
    if isinstance(store, Ensemble):
        if not same_temperature(temperature, store.temperature):
            raise TemperatureNotStored(
                f"the mean of an ensemble is taken at temperature {store.temperature:g}, so its labels cannot be used "
                f"at {temperature:g}; make the Ensemble with temperature={temperature:g}"
            )
        return
    first.read([0], head).take(np.zeros(1, np.int64)).log_probs(temperature)


def _sequences(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids one after the other, and the tokens of each sequence."""
    inputs = batch.inputs
    if isinstance(inputs, Ragged):
        return inputs.values, inputs.lengths
    if isinstance(inputs, np.ndarray) and inputs.ndim == 2 and inputs.dtype.kind in "iu":
        return inputs.reshape(-1).astype(np.int64), np.full(len(inputs), inputs.shape[1])
    raise InvalidArgument(
        "a causal language model takes token ids: give the dataset inputs=TokenSource(...), or (n, L) whole numbers"
    )


def _rows_of_labels(labels: SoftLabels, tokens: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that each sequence has labels of: one fewer than tokens, or as many."""
    if labels.lengths is None:
        raise InvalidArgument("token labels have a row of labels a position: a head of kind tokens and shape (None,)")
    lengths = np.asarray(labels.lengths, np.int64)
    wrong = (lengths != tokens - 1) & (lengths != tokens)
    if wrong.any():
        at = int(wrong.argmax())
        raise LabelsMisaligned(
            f"row {rows[at]} has {tokens[at]} tokens, but labels of {lengths[at]} positions; L tokens have L - 1. Were "
            "the labels made from this text, with this tokenizer and truncation?"
        )
    return lengths


def _logits(outputs: Any) -> Tensor:
    found: Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
    return found
