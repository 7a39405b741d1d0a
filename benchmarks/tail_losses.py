"""CPU time of losses of labels with a tail prior, one of 64 codewords, or known offsets, beside labels without these.

    python benchmarks/tail_losses.py

Forward and backward pass, one thread, medians of interleaved runs: ``kl`` of given logits, and ``linear_kl`` of states
of width 96. CPU time, so that neighbours on the machine count for little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from softlabels import losses
from softlabels.labels import Dither, SparseLabels

SHAPES = ((4096, 2048), (49_152, 256))
"""Classes and rows."""
LISTED, WIDTH, RUNS = 12, 96, 11
TAILS = {"no tail": 0, "one prior": 1, "64 codewords": 64}
"""Number of priors."""


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for classes, rows in SHAPES:
        labels = {name: labels_of(classes, rows, priors) for name, priors in TAILS.items()}
        offsets = np.random.default_rng(1).integers(0, 2**32, rows)
        labels["offsets"] = replace(labels["no tail"], dither=Dither(0.05, offsets))
        logits = torch.randn(rows, classes, requires_grad=True)
        states, weight = torch.randn(rows, WIDTH, requires_grad=True), torch.randn(classes, WIDTH, requires_grad=True)
        for loss in (partial(losses.kl, logits), partial(losses.linear_kl, states, weight)):
            seconds = medians({name: partial(loss, of_name) for name, of_name in labels.items()})
            ratios = ", ".join(f"{name} {taken / seconds['no tail']:.2f}" for name, taken in seconds.items())
            print(f"{classes} classes, {loss.func.__name__}: {ratios}")


def labels_of(classes: int, rows: int, priors: int) -> SparseLabels:
    """Return labels of random classes, whose tail has 0.3 of the mass."""
    random = np.random.default_rng(0)
    ids = np.stack([random.choice(classes, LISTED, replace=False) for _ in range(rows)])
    prior = random.dirichlet(np.ones(classes), priors).astype(np.float32)[None] if priors else None
    return SparseLabels(
        classes=classes,
        ids=ids,
        values=np.full(ids.shape, np.log(0.7 / LISTED), np.float32),
        temperatures=(1.0,),
        log_tail=np.full((rows, 1), np.log(0.3) if priors else -np.inf, np.float32),
        prior=prior[:, 0] if prior is not None and priors == 1 else prior,
        unbiased=not priors,
        prior_index=random.integers(0, priors, rows).astype(np.uint8) if priors > 1 else None,
    )


def medians(runs: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Return the median CPU time of each loss with its backward pass, in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(RUNS):
        for name, run in runs.items():
            began = time.process_time()
            run().backward()
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    main()
