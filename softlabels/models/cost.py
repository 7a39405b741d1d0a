"""Cost of running a model: parameters, FLOPs, latency, throughput, memory, bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from softlabels.errors import ModelFailed
from softlabels.models.digest import tensors_of
from softlabels.models.model import Model
from softlabels.models.run_directory import WEIGHTS_FILE

MAX_SECONDS = 10.0
"""Time after which no more passes are timed."""
THROUGHPUT_ROWS = 64
"""Rows of a batch whose throughput is measured."""
THROUGHPUT_SECONDS = 0.3
PROBE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of running a model on one example.

    Attributes:
        parameters: Number of trainable values; of an exported file, of all its weights.
        flops: Floating-point operations of matrix products and convolutions of a forward pass; None if none was
            counted, as for a function that computes outside of torch.
        latency_ms: Median time of a forward pass at batch 1 on one CPU thread, in milliseconds.
        latency_p95_ms: Time that 95 % of the passes take at most.
        latency_p99_ms: Time that 99 % of the passes take at most.
        rows_per_second: Rows per second in batches of 64, on all threads of torch.
        bytes: Size of the weights file or exported file, or of the weights in memory if there is none.
    """

    parameters: int
    flops: int | None
    latency_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    rows_per_second: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class StartCost:
    """Cost of starting a model in a process of its own, after torch has been imported.

    Attributes:
        init_s: Time to load the model, in seconds.
        first_ms: Time of the first forward pass at batch 1, in milliseconds.
        resident_bytes: Growth of resident memory from before loading to after some passes.
        peak_bytes: Growth of the greatest resident memory.
    """

    init_s: float
    first_ms: float
    resident_bytes: int
    peak_bytes: int


def measure_cost(model: Model, sample: Any, *, repeats: int = 200) -> Cost:
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
        >>> cost = measure_cost(as_model(torch.nn.Linear(4, 3), sample=sample), sample, repeats=3)
        >>> cost.parameters, cost.flops
        (15, 24)
    """
    file = getattr(model.module, "file", None)
    with one_thread():
        latencies = 1e3 * np.array(_latencies(model, sample, repeats))
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.module.parameters())
        if file is None
        else file.parameters,
        flops=_flops(model, sample),
        latency_ms=float(p50),
        latency_p95_ms=float(p95),
        latency_p99_ms=float(p99),
        rows_per_second=_throughput(model, sample),
        bytes=_size(model),
    )


def _flops(model: Model, sample: Any) -> int | None:
    """Return the operations of a forward pass, by torch's counter or from the graph of an ONNX file."""
    file = getattr(model.module, "file", None)
    if file is None:
        counter = FlopCounterMode(display=False)
        with counter:
            model.predict(sample)
        return int(counter.get_total_flops()) or None
    from softlabels.models.onnx_cost import onnx_flops

    inputs = torch.as_tensor(np.array(sample[:1]))
    prepared = inputs if model.preprocessing is None else model.preprocessing.apply(inputs)
    return onnx_flops(file.path, tuple(prepared.shape[1:]))


def _size(model: Model) -> int:
    """Return the bytes of the weights file, of the exported file, or of the weights in memory."""
    file = getattr(model.module, "file", None)
    if file is not None:
        return int(file.bytes)
    if model.path is not None:
        return (model.path / WEIGHTS_FILE if model.path.is_dir() else model.path).stat().st_size
    return sum(tensor.nbytes for tensor in tensors_of(model.module).values())


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch, and exported networks, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _latencies(model: Model, sample: Any, repeats: int) -> list[float]:
    """Return the seconds of some forward passes."""
    times: list[float] = []
    began = time.perf_counter()
    warm_up = max(1, repeats // 10)
    while len(times) < warm_up + repeats and (len(times) < warm_up + 1 or time.perf_counter() - began < MAX_SECONDS):
        start = time.perf_counter()
        model.predict(sample)
        times.append(time.perf_counter() - start)
    return times[warm_up:]


def _throughput(model: Model, sample: Any) -> float:
    """Return the rows per second in batches of copies of the sample; of a structure, one row at a time."""
    batch, rows = sample, 1
    if isinstance(sample, np.ndarray | torch.Tensor):
        rows = THROUGHPUT_ROWS
        batch = np.repeat(np.asarray(sample[:1]), rows, axis=0)
        model.predict(batch)  # the first pass of this size allocates
    done, began = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - began < THROUGHPUT_SECONDS:
        model.predict(batch)
        done += rows
    return done / (time.perf_counter() - began)


def measure_start(spec: str, sample: NDArray[Any]) -> StartCost:
    """Return the cost of starting a model, measured in a process of its own on one thread.

    Args:
        spec: MODEL specification whose file or directory says its heads and preprocessing.
        sample: One input, (1, *input_shape).

    Raises:
        ModelFailed: The process failed; shows the last line it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.npy"
        np.save(path, np.asarray(sample))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "softlabels.models.start_probe", spec, str(path)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=PROBE_SECONDS, check=False
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ModelFailed(
            f"{spec}: cannot be started in a process of its own, got {lines[-1][:300]}; expected a result"
        )
    return StartCost(**json.loads(done.stdout))
