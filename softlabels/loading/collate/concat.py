"""Concatenation of batches along their rows, whichever stores the rows are from.

Labels of one kind can be concatenated if they have the same classes and temperatures. Lists of different widths are
padded. Different tail priors are stacked, and each row gets the index of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels, Dither, SoftLabels, SparseLabels, canonical_temperatures
from softlabels.loading.batch import Batch
from softlabels.sources import join_inputs

Priors = dict[tuple[int, ...], tuple[tuple[Any, ...], NDArray[np.float32]]]
"""Stacked priors by the identities of the arrays they were made from, which stay alive beside them."""


def concat_batches(batches: Sequence[Batch], priors: Priors | None = None) -> Batch:
    """Return the rows of batches one batch after the other. Epoch, step and global rows are those of the first.

    Args:
        batches: Batches of NumPy arrays, with the same heads and inputs of one structure.
        priors: Cache of stacked tail priors, so that they are stacked once for many batches.

    Raises:
        InvalidArgument: Labels that cannot be concatenated.
    """
    first = batches[0]
    if len(batches) == 1:
        return first
    views = [batch.views for batch in batches]
    if any((view is None) != (views[0] is None) for view in views):
        views = [np.zeros(len(batch), np.uint32) if batch.views is None else batch.views for batch in batches]
    return replace(
        first,
        rows=np.concatenate([batch.rows for batch in batches]),
        inputs=join_inputs([batch.inputs for batch in batches], _concat_arrays),
        hard=join_inputs([batch.hard for batch in batches], _concat_arrays),
        targets={
            head: concat_labels([batch.targets[head] for batch in batches], {} if priors is None else priors)
            for head in first.targets
        },
        views=None if views[0] is None else np.concatenate([view for view in views if view is not None]),
    )


def concat_labels(batches: Sequence[SoftLabels], priors: Priors) -> SoftLabels:
    """Return labels one batch after the other.

    Args:
        batches: Labels of one head.
        priors: Cache of stacked tail priors.

    Raises:
        InvalidArgument: Dense beside sparse labels, or different classes, temperatures or tails.
    """
    kinds = {_describe(labels) for labels in batches}
    if len(kinds) > 1:
        raise InvalidArgument(
            f"labels: kinds that differ cannot be in one batch, got {' and '.join(map(str, sorted(kinds, key=str)))}; "
            "expected one kind of encoding, classes and temperatures. Load them separately"
        )
    lengths = _concat_optional([labels.lengths for labels in batches])
    dense = [labels for labels in batches if isinstance(labels, DenseLabels)]
    if dense:
        return replace(dense[0], values=np.concatenate([labels.values for labels in dense]), lengths=lengths)
    sparse = [labels for labels in batches if isinstance(labels, SparseLabels)]
    width = max(labels.ids.shape[1] for labels in sparse)
    prior, prior_index = _stack_priors(sparse, priors)
    return replace(
        sparse[0],
        ids=np.concatenate([_padded(labels.ids, width, 0) for labels in sparse]),
        values=np.concatenate([_padded(labels.values, width, -np.inf) for labels in sparse]),
        log_tail=np.concatenate([labels.log_tail for labels in sparse]),
        prior=prior,
        lengths=lengths,
        prior_index=prior_index,
        drawn=any(labels.drawn for labels in sparse),
        dither=_concat_dither([labels.dither for labels in sparse]),
    )


def _describe(labels: SoftLabels) -> tuple[object, ...]:
    if isinstance(labels, DenseLabels):
        return "dense", labels.kind, labels.values.shape[1:], labels.lengths is None
    temperatures = canonical_temperatures(labels.temperatures)
    layout = labels.lengths is None, labels.shape
    return "sparse", labels.classes, temperatures, labels.tail, labels.unbiased, *layout


def _stack_priors(
    batches: Sequence[SparseLabels], priors: Priors
) -> tuple[NDArray[np.float32] | None, NDArray[np.integer] | None]:
    """Return the tail priors of all batches and the index of each row's own; unchanged if all share one."""
    arrays = tuple(labels.prior for labels in batches)
    if all(prior is arrays[0] for prior in arrays):
        return arrays[0], _concat_optional([labels.prior_index for labels in batches])
    name = tuple(id(prior) for prior in arrays)
    if name not in priors:
        first = batches[0]
        uniform = np.full((len(first.temperatures), first.classes), 1 / first.classes, np.float32)
        present = [uniform if prior is None else prior for prior in arrays]
        stacked = [prior[:, None] if prior.ndim == 2 else prior for prior in present]  # (T, M, C)
        priors[name] = arrays, np.concatenate(stacked, axis=1)
    offset, indices = 0, []
    for labels in batches:
        own = np.zeros(len(labels.ids), np.int64) if labels.prior_index is None else labels.prior_index
        indices.append(own + offset)
        offset += 1 if labels.prior is None or labels.prior.ndim == 2 else labels.prior.shape[1]
    return priors[name][1], np.concatenate(indices)


def _concat_dither(dithers: Sequence[Dither | None]) -> Dither | None:
    """Return the offsets of all rows; None if those of a batch are not known, or batches have different steps."""
    known = [dither for dither in dithers if dither is not None]
    if len(known) < len(dithers) or len({dither.step for dither in known}) > 1:
        return None
    return Dither(known[0].step, np.concatenate([dither.offsets for dither in known]))


def _padded(array: NDArray[Any], width: int, value: float) -> NDArray[Any]:
    lacking = width - array.shape[1]
    return array if lacking == 0 else np.pad(array, ((0, 0), (0, lacking)), constant_values=value)


def _concat_optional(arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None


def _concat_arrays(arrays: Sequence[Any]) -> Any:
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.concatenate(arrays)
    import torch

    return torch.cat([torch.as_tensor(array) for array in arrays])
