"""Arrays as tensors, and tensors in memory that processes share.

Left to itself, torch asks for shared memory when a batch is already on its way from a worker: where there is none left
it says so on stderr alone, and the batch is lost. Here it is an error where the batch is made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from softlabels.errors import StorageFailed
from softlabels.labels import SoftLabels, SparseLabels

if TYPE_CHECKING:
    import torch

Made = TypeVar("Made")

ALIGNED = 64
"""Bytes between the beginnings of tensors in shared memory."""

PRIORS_KEPT = 8
"""Tail priors that a worker process keeps where others can read them."""

_PRIORS: OrderedDict[tuple[Any, ...], tuple[Any, torch.Tensor]] = OrderedDict()


def as_tensor(value: Any) -> torch.Tensor:
    """A tensor over the same memory where that can be written to, else over a copy."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    return torch.from_numpy(value if value.flags.writeable else value.copy())


def shared(make: Callable[[Callable[[Any], Any]], Made]) -> Made:
    """What ``make`` makes of arrays that have been copied to one piece of shared memory.

    Args:
        make: changes all arrays of a whole by the function it is given, always in one order; called twice.

    Raises:
        StorageFailed: there is no such memory left.
    """
    import torch

    sizes: list[int] = []
    make(lambda value: sizes.append(_aligned(as_tensor(value).nbytes)))
    memory, used = _shared(torch.empty(sum(sizes), dtype=torch.uint8)), 0

    def place(value: Any) -> torch.Tensor:
        nonlocal used
        tensor = as_tensor(value)
        copy = memory[used : used + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        used += _aligned(tensor.nbytes)
        return copy.copy_(tensor)

    return make(place)


def with_shared_prior(labels: SoftLabels) -> SoftLabels:
    """The same labels with their tail prior in shared memory, where each prior is put once.

    Raises:
        StorageFailed: there is no such memory left.
    """
    if not isinstance(labels, SparseLabels) or labels.prior is None:
        return labels
    given: Any = labels.prior
    prior = as_tensor(given)
    # A tensor over an array is made for every batch; a copy of what cannot be written to would lie elsewhere each time.
    name = (id(given) if isinstance(given, np.ndarray) else prior.data_ptr(), prior.shape)
    if name not in _PRIORS:
        # The original is kept too, so that no other prior comes to lie where it was.
        _PRIORS[name] = (given, _shared(prior.clone()))
    _PRIORS.move_to_end(name)
    while len(_PRIORS) > PRIORS_KEPT:
        _PRIORS.popitem(last=False)
    return replace(labels, prior=_PRIORS[name][1])  # type: ignore[arg-type]


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    try:
        moved: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise StorageFailed(
            f"no memory left that processes share ({error}); enlarge /dev/shm (docker run --shm-size=8g), or use fewer "
            "workers or smaller batches"
        ) from error
    return moved


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
