"""The trainer, for teacher and student alike: AdamW, warm-up and cosine, checkpoints, metrics.

What it is given decides the result to the bit: batches come from a function of the step, the learning rate is a
function of the step, and a checkpoint holds the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from softlabels.errors import TrainingFailed
from softlabels.loading import Batch
from softlabels.models import Model, as_tensor, write_atomically
from softlabels.training.checkpoint import read_checkpoint, write_checkpoint
from softlabels.training.recipe import Recipe

METRICS = "metrics.jsonl"
LOG_EVERY = 50
"""Steps between lines of metrics."""

CHECKPOINT_SECONDS = 20.0
"""Time between checkpoints: what a kill may cost."""


class TrainingProgress(Protocol):
    """Called now and then with the steps done, the steps there are, and figures such as the loss."""

    def __call__(self, done: int, total: int, **figures: float) -> None:
        """Show it."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One training run.

    Attributes:
        model: what is trained, in place.
        stream: the batches from a step on.
        loss: (logits, batch) to a scalar.
        recipe: how.
        steps: in all.
        folder: where checkpoints and metrics go.
        identity: names what the run was told.
        checkpoint_seconds: between checkpoints.
    """

    model: Model
    stream: Callable[[int], Generator[Batch]]
    loss: Callable[[Tensor, Batch], Tensor]
    recipe: Recipe
    steps: int
    folder: Path
    identity: str
    checkpoint_seconds: float


def fit(run: Fit, progress: TrainingProgress | None = None) -> None:
    """Train to the last step, from the last checkpoint where there is one.

    Raises:
        TrainingFailed: the loss is not finite; the last good checkpoint stays.
    """
    module = run.model.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=run.recipe.lr, weight_decay=run.recipe.weight_decay)
    done = read_checkpoint(run.folder, module, optimizer)
    metrics = _Metrics(run.folder / METRICS, done)
    saved = time.monotonic()
    module.train()
    batches = run.stream(done)
    if progress is not None:
        progress(done, run.steps)
    try:
        for step in range(done, run.steps):
            loss = _step(run, optimizer, step, next(batches))
            done = step + 1
            if done % LOG_EVERY == 0 or done == run.steps:
                metrics.write(step=done, loss=loss, lr=run.recipe.learning_rate(step, run.steps))
                if progress is not None:
                    progress(done, run.steps, loss=loss)
            if time.monotonic() - saved >= run.checkpoint_seconds:
                write_checkpoint(run.folder, module, optimizer, step=done, identity=run.identity)
                saved = time.monotonic()
    finally:
        batches.close()
    module.eval()


def _step(run: Fit, optimizer: torch.optim.Optimizer, step: int, batch: Batch) -> float:
    for group in optimizer.param_groups:
        group["lr"] = run.recipe.learning_rate(step, run.steps)
    if batch.inputs is None:
        raise TrainingFailed("batches without inputs cannot be trained on; name the data with --data")
    logits = run.model.module(as_tensor(batch.inputs).to(run.model.device))
    loss = run.loss(logits, batch)
    value = float(loss.detach())
    if not torch.isfinite(loss):
        rows = ", ".join(map(str, batch.rows[:5]))
        raise TrainingFailed(
            f"the loss is {value} at step {step} (rows {rows}, ...); the last checkpoint is kept. Try a lower --lr"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch
    torch.nn.utils.clip_grad_norm_(run.model.module.parameters(), run.recipe.clip)
    optimizer.step()
    return value


class _Metrics:
    """Lines of JSON, one a logged step; lines after the step one resumes from are dropped."""

    def __init__(self, path: Path, done: int) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= done]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, **figures: Any) -> None:
        """Append a line."""
        with self._path.open("a") as file:
            file.write(json.dumps(figures) + "\n")
