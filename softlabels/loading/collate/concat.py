"""Putting batches together: rows one after the other, whichever stores they are from.

Labels of one kind can be put together where they have the same classes and temperatures. Lists of unlike lengths are
padded; unlike tail priors are kept side by side, and each row says which is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels, SoftLabels, SparseLabels, canonical_temperatures
from softlabels.loading.batch import Batch
from softlabels.sources import join_inputs

Priors = dict[tuple[int, ...], tuple[tuple[Any, ...], NDArray[np.float32]]]
"""Priors side by side, by the identities of those they were made from, which are kept alive beside them."""


def join_batches(batches: Sequence[Batch], priors: Priors | None = None) -> Batch:
    """The rows of batches one after the other; what belongs to a step is that of the first.

    Args:
        batches: of NumPy arrays, with the same heads and inputs of one structure.
        priors: keeps tail priors that were put side by side, so that it is done once for many batches.

    Raises:
        InvalidArgument: labels that cannot be put together; says why.
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
        inputs=join_inputs([batch.inputs for batch in batches], _concatenate),
        hard=join_inputs([batch.hard for batch in batches], _concatenate),
        targets={
            head: join_labels([batch.targets[head] for batch in batches], {} if priors is None else priors)
            for head in first.targets
        },
        views=None if views[0] is None else np.concatenate([view for view in views if view is not None]),
    )


def join_labels(parts: Sequence[SoftLabels], priors: Priors) -> SoftLabels:
    """Labels one after the other.

    Raises:
        InvalidArgument: dense beside sparse ones, or other classes, temperatures or tails.
    """
    told = [_description(part) for part in parts]
    if len(set(told)) > 1:
        raise InvalidArgument(
            f"labels that differ in kind cannot be in one batch: {' and '.join(map(str, sorted(set(told), key=str)))}; "
            "make them with one kind of encoding, classes and temperatures, or load them apart"
        )
    lengths = _maybe([part.lengths for part in parts])
    dense = [part for part in parts if isinstance(part, DenseLabels)]
    if dense:
        return replace(dense[0], values=np.concatenate([part.values for part in dense]), lengths=lengths)
    sparse = [part for part in parts if isinstance(part, SparseLabels)]
    width = max(part.ids.shape[1] for part in sparse)
    prior, prior_index = _side_by_side(sparse, priors)
    return replace(
        sparse[0],
        ids=np.concatenate([_padded(part.ids, width, 0) for part in sparse]),
        values=np.concatenate([_padded(part.values, width, -np.inf) for part in sparse]),
        log_tail=np.concatenate([part.log_tail for part in sparse]),
        prior=prior,
        lengths=lengths,
        prior_index=prior_index,
    )


def _description(labels: SoftLabels) -> tuple[object, ...]:
    if isinstance(labels, DenseLabels):
        return "dense", labels.kind, labels.values.shape[1:], labels.lengths is None
    temperatures = canonical_temperatures(labels.temperatures)
    return "sparse", labels.classes, temperatures, labels.tail, labels.unbiased, labels.lengths is None


def _side_by_side(
    parts: Sequence[SparseLabels], priors: Priors
) -> tuple[NDArray[np.float32] | None, NDArray[np.integer] | None]:
    """Tail priors of all parts, and for each row which is its own; as they are where all parts share one."""
    given = tuple(part.prior for part in parts)
    if all(prior is given[0] for prior in given):
        return given[0], _maybe([part.prior_index for part in parts])
    name = tuple(id(prior) for prior in given)
    if name not in priors:
        first = parts[0]
        uniform = np.full((len(first.temperatures), first.classes), 1 / first.classes, np.float32)
        each = [uniform if prior is None else prior for prior in given]
        stacked = [prior[:, None] if prior.ndim == 2 else prior for prior in each]
        priors[name] = given, np.concatenate(stacked, axis=1)
    before, indices = 0, []
    for part in parts:
        own = np.zeros(len(part.ids), np.int64) if part.prior_index is None else part.prior_index
        indices.append(own + before)
        before += 1 if part.prior is None or part.prior.ndim == 2 else part.prior.shape[1]
    return priors[name][1], np.concatenate(indices)


def _padded(array: NDArray[Any], width: int, value: float) -> NDArray[Any]:
    short = width - array.shape[1]
    return array if short == 0 else np.pad(array, ((0, 0), (0, short)), constant_values=value)


def _maybe(parts: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """One after the other, where there are any."""
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def _concatenate(parts: Sequence[Any]) -> Any:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    import torch

    return torch.cat([torch.as_tensor(part) for part in parts])
