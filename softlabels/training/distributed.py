"""Several processes that train one model, started by ``torchrun``.

Each process computes its share of the rows of a step; gradients, losses and counts are summed over the processes, so
a step is that of one process with all rows. Gradients are summed after the backward pass. A process that dies breaks
the sums of the others, which then end with WorkerDied.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from softlabels.errors import InvalidArgument, SoftLabelsError, WorkerDied

Result = TypeVar("Result")

BUCKET_BYTES = 2**25
"""Bytes of gradients that are summed at a time."""

TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process that is alive, such as one that evaluates or writes a checkpoint."""


class Workers:
    """The processes of a run.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        device: Device of the sums.

    Example:
        >>> Workers().sum([1.0, 2.0]).tolist()
        [1.0, 2.0]
    """

    def __init__(self, rank: int = 0, world_size: int = 1, device: str = "cpu") -> None:
        self.rank, self.world_size, self.device = rank, world_size, device

    @property
    def is_first(self) -> bool:
        """True if this process writes the files of the run."""
        return self.rank == 0

    def sum(self, values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums of numbers over the processes, float64.

        Args:
            values: As many numbers in each process.

        Raises:
            WorkerDied: Another process ended.
        """
        if self.world_size == 1:
            return np.asarray(values, np.float64)
        tensor = torch.tensor(np.asarray(values, np.float64), device=self.device)
        with worker_errors(self.rank):
            distributed.all_reduce(tensor)
        return np.asarray(tensor.cpu().numpy())

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over the processes, in place.

        Args:
            parameters: Parameters in the same order in each process. A gradient that is missing here and present
                elsewhere counts as 0.

        Raises:
            WorkerDied: Another process ended.
        """
        if self.world_size == 1:
            return
        present = self.sum([float(parameter.grad is not None) for parameter in parameters]) > 0
        used = [parameter for parameter, is_used in zip(parameters, present, strict=True) if is_used]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in used if parameter.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            with worker_errors(self.rank):
                distributed.all_reduce(flat)
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, values in zip(bucket, torch.split(flat, sizes), strict=True):
                gradient.copy_(values.view_as(gradient))

    def copy_buffers(self, module: nn.Module) -> None:
        """Copy the buffers of the first process, such as running means, to the others.

        Args:
            module: Network that is trained.

        Raises:
            WorkerDied: Another process ended.
        """
        for buffer in module.buffers() if self.world_size > 1 else ():
            with worker_errors(self.rank):
                distributed.broadcast(buffer, 0)

    def on_first(self, function: Callable[[], Result]) -> Result:
        """Return the result of a function that the first process alone calls; its errors are raised in all.

        Args:
            function: Function without arguments; its result is copied to the other processes.

        Raises:
            WorkerDied: Another process ended.
            SoftLabelsError: The function raised it.
        """
        if self.world_size == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            except BaseException as error:
                # Other errors may not survive a copy, and the others need to know that there was one.
                outcome[1] = error if _is_picklable(error) else WorkerDied(f"rank 0: {type(error).__name__}: {error}")
                self._broadcast(outcome)
                raise
        self._broadcast(outcome)
        if not self.is_first and outcome[1] is not None:
            raise outcome[1]
        result: Result = outcome[0]
        return result

    def _broadcast(self, values: list[Any]) -> None:
        with worker_errors(self.rank):
            distributed.broadcast_object_list(values, src=0, device=torch.device(self.device))


@contextmanager
def join_workers(device: str | None) -> Iterator[Workers]:
    """Join the other processes that ``torchrun`` started, for as long as the block runs.

    Without ``torchrun`` there is one process. A process group that exists already is used and left.

    Args:
        device: Torch device of the training; None: an accelerator if there is one.

    Yields:
        The processes.

    Raises:
        InvalidArgument: The environment does not say which process this is.
        WorkerDied: The other processes cannot be reached.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield Workers(distributed.get_rank(), distributed.get_world_size(), _device(device))
        return
    world_size = _number("WORLD_SIZE", 1)
    if world_size == 1:
        yield Workers(device=_device(device))
        return
    rank, name = _number("RANK", -1), _device(device)
    if not 0 <= rank < world_size:
        raise InvalidArgument(
            f"RANK: not the number of a process, got {os.environ.get('RANK')!r} with WORLD_SIZE={world_size}; expected "
            f"0 to {world_size - 1}. Start training with torchrun"
        )
    if name.startswith("cuda"):
        torch.cuda.set_device(torch.device(name))
    with worker_errors(rank):
        distributed.init_process_group("nccl" if name.startswith("cuda") else "gloo", timeout=TIMEOUT)
    try:
        yield Workers(rank, world_size, name)
    finally:
        distributed.destroy_process_group()


@contextmanager
def worker_errors(rank: int) -> Iterator[None]:
    """Turn a broken connection to another process into WorkerDied.

    Args:
        rank: Number of this process.

    Raises:
        WorkerDied: Another process ended.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, SoftLabelsError):
            raise
        raise WorkerDied(
            f"rank {rank}: another process of the run ended, got {str(error).splitlines()[0][:200]}; expected "
            "all to run to the end. Its own message says why; run the same command again to resume"
        ) from None


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one dtype, up to BUCKET_BYTES at a time."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = bucket and sum(entry.nbytes for entry in bucket) + gradient.nbytes > BUCKET_BYTES
        if bucket and (full or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _device(device: str | None) -> str:
    """Return the device of this process: the GPU of its local rank, unless the CPU or one GPU is named."""
    local = _number("LOCAL_RANK", 0)
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        return f"cuda:{local}"
    return device or "cpu"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def _is_picklable(error: BaseException) -> bool:
    if not isinstance(error, SoftLabelsError | KeyboardInterrupt):
        return False
    pickle.dumps(error)
    return True
