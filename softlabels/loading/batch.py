"""The batch of one training step, as NumPy arrays or as torch tensors, and the conversion between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.columns import ranges
from softlabels.labels import DenseLabels, Dither, SoftLabels, SparseLabels
from softlabels.loading.shared_memory import as_tensor, shared, with_shared_prior
from softlabels.sources import Ragged, map_arrays

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """The rows of one training step.

    If the loader has a device, ``inputs``, ``hard`` and the arrays inside ``targets`` are tensors. Ids and values then
    have the dtypes they are stored in, which are two to four times smaller; the losses widen them on the device.
    Arrays of a batch may be changed in place: they share no memory with the data or with other batches. Tail priors
    are the exception; they belong to the store.

    Attributes:
        epoch: Epoch, from 0.
        step: Step over all epochs, from 0.
        rows: Row numbers in the data; in the store if the loader has no data, (B,).
        inputs: Model inputs: (B, *input_shape); Ragged for token sequences; for other datasets the result of their
            collation. None without data.
        hard: Hard labels, (B,); -1 for a row without one. None without a label column.
        targets: Soft labels by head. Empty without a store.
        views: Augmented version of its input that each label belongs to, (B,). None if every input has one.
        global_rows: Rows of this step on all ranks together.
        parts: Index of the part of a mixture that each row is from, (B,). None without a mixture.
    """

    epoch: int
    step: int
    rows: NDArray[np.int64]
    inputs: Any = None
    hard: Any = None
    targets: Mapping[str, SoftLabels] = field(default_factory=dict)
    views: NDArray[np.uint32] | None = None
    global_rows: int = 0
    parts: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, order: NDArray[np.int64]) -> Batch:
        """Return the rows at ``order``, in that order. The batch must hold arrays."""
        return replace(
            self,
            rows=self.rows[order],
            inputs=_take(self.inputs, order),
            hard=None if self.hard is None else self.hard[order],
            targets={name: labels.take(order) for name, labels in self.targets.items()},
            views=None if self.views is None else self.views[order],
            parts=None if self.parts is None else self.parts[order],
        )

    def tensors(self) -> Batch:
        """Return the batch as tensors over the same memory."""
        return self._mapped(as_tensor, with_prior=True)

    def shared(self) -> Batch:
        """Return the batch as tensors in memory that processes share, for a worker to hand over.

        All tensors lie in one block, because each block that is handed over costs as much as a batch. Tail priors may
        be larger than all the rest and are the same in every batch; they are put there once.

        Raises:
            StorageFailed: No shared memory is available.
        """
        copied = shared(lambda change: self._mapped(change, with_prior=False))
        return replace(copied, targets={name: with_shared_prior(labels) for name, labels in copied.targets.items()})

    def numpy(self) -> Batch:
        """Return the batch as arrays over the same memory."""
        return self._mapped(_as_array, with_prior=True)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which copies to a GPU do not block; DataLoader calls this."""
        return self._mapped(lambda value: as_tensor(value).pin_memory(), with_prior=False)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> Batch:
        """Return the batch as tensors on a device. Tail priors stay where they are; losses move them once."""
        return self._mapped(lambda value: as_tensor(value).to(device, non_blocking=non_blocking), with_prior=False)

    def _mapped(self, change: Callable[[Any], Any], *, with_prior: bool) -> Batch:
        return Batch(  # dataclasses.replace takes as long as all the rest
            epoch=self.epoch,
            step=self.step,
            rows=self.rows,
            inputs=None if self.inputs is None else map_arrays(self.inputs, change),
            hard=None if self.hard is None else change(self.hard),
            targets={name: map_labels(labels, change, with_prior=with_prior) for name, labels in self.targets.items()},
            views=self.views,
            global_rows=self.global_rows,
            parts=self.parts,
        )


def map_labels(labels: SoftLabels, change: Callable[[Any], Any], *, with_prior: bool = False) -> SoftLabels:
    """Return the labels with every array changed.

    Args:
        labels: Labels of a batch.
        change: Function from an array to its replacement.
        with_prior: Change the tail prior too, which belongs to the store rather than to the batch.
    """
    lengths = None if labels.lengths is None else change(labels.lengths)
    if isinstance(labels, DenseLabels):
        return DenseLabels(change(labels.values), labels.kind, lengths)
    return SparseLabels(
        classes=labels.classes,
        ids=change(labels.ids),
        values=change(labels.values),
        temperatures=labels.temperatures,
        log_tail=change(labels.log_tail),
        tail=labels.tail,
        prior=change(labels.prior) if with_prior and labels.prior is not None else labels.prior,
        unbiased=labels.unbiased,
        lengths=lengths,
        prior_index=None if labels.prior_index is None else change(labels.prior_index),
        drawn=labels.drawn,
        shape=labels.shape,
        dither=None if labels.dither is None else Dither(labels.dither.step, change(labels.dither.offsets)),
    )


def _take(inputs: Any, order: NDArray[np.int64]) -> Any:
    if isinstance(inputs, Ragged):
        starts = np.cumsum(inputs.lengths) - inputs.lengths
        entries = ranges(starts[order], inputs.lengths[order])
        marks = None if inputs.marks is None else inputs.marks[entries]
        return Ragged(inputs.values[entries], inputs.lengths[order], marks)
    return map_arrays(inputs, lambda array: array[order])


def _as_array(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else value.numpy()
