"""Measurement of a model's start, run as a process: ``python -m softlabels.models.start_probe SPEC SAMPLE.npy``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from softlabels.models import load, needs_sample

PASSES = 5


def memory() -> dict[str, int]:
    """Return the resident memory of this process and its greatest value, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    entries = dict(line.split(":", 1) for line in lines)
    return {name: int(entries[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


def main(spec: str, path: str) -> None:
    """Print the cost of starting a model as JSON.

    Args:
        spec: MODEL specification.
        path: File of one input, (1, *input_shape).
    """
    torch.set_num_threads(1)
    sample = np.load(path)
    # What every program pays, such as the first allocation of torch, is not the model's.
    torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 2, 2))
    before, began = memory(), time.perf_counter()
    model = load(spec, sample=sample if needs_sample(spec) else None)
    loaded = time.perf_counter()
    model.predict(sample)
    first = time.perf_counter()
    for _ in range(PASSES):
        model.predict(sample)
    after = memory()
    figures = {
        "init_s": loaded - began,
        "first_ms": 1e3 * (first - loaded),
        "resident_bytes": max(after["VmRSS"] - before["VmRSS"], 0),
        "peak_bytes": max(after["VmHWM"] - before["VmRSS"], 0),
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
