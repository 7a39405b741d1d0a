"""Arrays as tensors, and tensors in memory that processes share.

By default torch requests shared memory when a batch is already on its way from a worker. If there is none left, torch
prints that to stderr and the batch is lost. Here the worker raises an error where it makes the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from softlabels.errors import StorageFailed
from softlabels.labels import SoftLabels, SparseLabels
from softlabels.lru import LruCache

if TYPE_CHECKING:
    import torch

Structure = TypeVar("Structure")

ALIGNMENT = 64
"""Bytes that the beginnings of tensors in shared memory are multiples of."""
MAX_PRIORS = 8
"""Tail priors that a worker process holds in shared memory."""

_PRIORS: LruCache[tuple[Any, ...], tuple[Any, torch.Tensor]] = LruCache(MAX_PRIORS)


def as_tensor(value: Any) -> torch.Tensor:
    """Return a tensor over the memory of an array if that can be written to, else over a copy."""
    import torch

    if isinstance(value, np.ndarray):
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    tensor: torch.Tensor = value
    return tensor


def shared(build: Callable[[Callable[[Any], Any]], Structure]) -> Structure:
    """Return a structure of arrays with all of them copied to one block of shared memory.

    Args:
        build: Function that builds the structure and applies its argument to every array, always in the same order. It
            is called twice: to add up the sizes, and to copy.

    Raises:
        StorageFailed: No shared memory is available.
    """
    import torch

    sizes: list[int] = []
    build(lambda value: sizes.append(_aligned(as_tensor(value).nbytes)))
    memory, used = _share(torch.empty(sum(sizes), dtype=torch.uint8)), 0

    def place(value: Any) -> torch.Tensor:
        nonlocal used
        tensor = as_tensor(value)
        copy = memory[used : used + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        used += _aligned(tensor.nbytes)
        return copy.copy_(tensor)

    return build(place)


def with_shared_prior(labels: SoftLabels) -> SoftLabels:
    """Return the labels with their tail prior in shared memory, to which each prior is copied once.

    Raises:
        StorageFailed: No shared memory is available.
    """
    if not isinstance(labels, SparseLabels) or labels.prior is None:
        return labels
    original: Any = labels.prior
    prior = as_tensor(original)
    # Each batch makes a new tensor over the array, and a copy of a read-only array has another address each time.
    name = (id(original) if isinstance(original, np.ndarray) else prior.data_ptr(), prior.shape)
    held = _PRIORS.get(name)
    if held is None:
        # The original stays alive too, so that no other prior gets its identity or address.
        held = (original, _share(prior.clone()))
        _PRIORS.put(name, held)
    return replace(labels, prior=held[1])  # type: ignore[arg-type]


def _share(tensor: torch.Tensor) -> torch.Tensor:
    try:
        moved: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise StorageFailed(
            f"shared memory: none left, got {error}. Enlarge /dev/shm (docker run --shm-size=8g), or use fewer workers "
            "or smaller batches"
        ) from error
    return moved


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
