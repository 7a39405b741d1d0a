"""Cost of running a model: parameters, FLOPs, latency, bytes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from softlabels.models.digest import tensors_of
from softlabels.models.model import Model
from softlabels.models.run_directory import WEIGHTS_FILE

MAX_SECONDS = 10.0
"""Time after which no more passes are timed."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of running a model on one example.

    Attributes:
        parameters: Number of trainable values.
        flops: Floating-point operations of a forward pass, by torch's counter (matrix products and convolutions).
        latency_ms: Median time of a forward pass at batch 1 on one CPU thread, in milliseconds.
        bytes: Size of the weights file, or of the weights in memory if there is none.
    """

    parameters: int
    flops: int
    latency_ms: float
    bytes: int


def measure(model: Model, sample: Any, *, repeats: int = 200) -> Cost:
    """Return the cost of a model.

    Args:
        model: The model, on the CPU.
        sample: One input, (1, *input_shape).
        repeats: Number of forward passes that are timed, within ten seconds.

    Raises:
        ModelFailed: The code of the model raised an error.

    Example:
        >>> from softlabels.models import as_model
        >>> sample = torch.zeros(1, 4)
        >>> cost = measure(as_model(torch.nn.Linear(4, 3), sample=sample), sample, repeats=3)
        >>> cost.parameters, cost.flops
        (15, 24)
    """
    counter = FlopCounterMode(display=False)
    with counter:
        model.predict(sample)
    if model.path is not None:
        size = (model.path / WEIGHTS_FILE).stat().st_size
    else:
        size = sum(tensor.nbytes for tensor in tensors_of(model.module).values())
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        flops=int(counter.get_total_flops()),
        latency_ms=1e3 * statistics.median(_latencies(model, sample, repeats)),
        bytes=size,
    )


def _latencies(model: Model, sample: Any, repeats: int) -> list[float]:
    """Return the seconds of some forward passes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times: list[float] = []
        began = time.perf_counter()
        warm_up = max(1, repeats // 10)
        while len(times) < warm_up + repeats and (
            len(times) < warm_up + 1 or time.perf_counter() - began < MAX_SECONDS
        ):
            start = time.perf_counter()
            model.predict(sample)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return times[warm_up:]
