"""Cost of running a model: parameters, FLOPs, latency, bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from softlabels.models.model import Model
from softlabels.models.run_directory import WEIGHTS_FILE


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of running a model on one example.

    Attributes:
        parameters: trainable numbers.
        flops: floating-point operations a forward pass, by torch's counter (matrix products and convolutions).
        latency_ms: median of one forward pass at batch 1 on one CPU thread.
        latency_p95_ms: its 95th percentile.
        bytes: the weights file, or the weights in memory where there is none.
    """

    parameters: int
    flops: int
    latency_ms: float
    latency_p95_ms: float
    bytes: int


def measure(model: Model, sample: torch.Tensor, *, repeats: int = 200) -> Cost:
    """Measure ``model`` on ``sample``, (1, *input_shape)."""
    counter = FlopCounterMode(display=False)
    with counter:
        model.logits(sample)
    times = sorted(_latencies(model, sample, repeats))
    if model.path is not None:
        size = (model.path / WEIGHTS_FILE).stat().st_size
    else:
        size = sum(tensor.nbytes for tensor in model.module.state_dict().values())
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        flops=int(counter.get_total_flops()),
        latency_ms=1e3 * times[len(times) // 2],
        latency_p95_ms=1e3 * times[int(0.95 * len(times))],
        bytes=size,
    )


def _latencies(model: Model, sample: torch.Tensor, repeats: int) -> list[float]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(repeats // 10):
            model.logits(sample)
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            model.logits(sample)
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return times
