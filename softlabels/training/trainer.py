"""The training loop, for teachers and students alike: AdamW, warm-up and cosine, checkpoints, metrics.

The identity of a run decides its result to the bit on one device: batches, learning rate and dropout are functions of
the seed and the step, and a checkpoint holds the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from softlabels.errors import InvalidArgument, InvalidData, TrainingFailed
from softlabels.interruption import Interruption
from softlabels.loading import Batch, Loader
from softlabels.models import Model
from softlabels.models.failures import user_errors
from softlabels.models.model import count_rows, select_labelled, to_device
from softlabels.models.outputs import check_outputs, outputs_by_head
from softlabels.models.run_record import RunRecord
from softlabels.sources import map_arrays
from softlabels.training.checkpoint import read_checkpoint, write_checkpoint
from softlabels.training.label_check import LabelCheck
from softlabels.training.metrics import Metrics
from softlabels.training.recipe import Recipe

TRAINER_VERSION = 2
"""Version of this code. Increment it if the same recipe would train other weights."""

STEPS_PER_LINE = 50
"""Steps between lines of metrics."""

CHECKPOINT_SECONDS = 20.0
"""Default time between checkpoints: what a kill may cost."""


class TrainingProgress(Protocol):
    """Callback that shows how training proceeds."""

    def __call__(self, done: int, total: int, **figures: float) -> None:
        """Show progress.

        Args:
            done: Number of steps that are done.
            total: Number of all steps.
            figures: Figures such as the loss.
        """


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training run.

    Attributes:
        model: Model that is trained, in place.
        loader: Batches as a function of the step.
        loss: Maps (outputs by head, batch) to a scalar.
        recipe: Options.
        record: Description of the run.
        folder: Run directory.
        interruption: Signals that end the run after the step at hand.
        progress: Callback; None: nothing is shown.
        checkpoint_seconds: Time between checkpoints in seconds.
        forward: Maps inputs to what ``loss`` takes in place of outputs by head; None: the network.
    """

    model: Model
    loader: Loader
    loss: Callable[[Mapping[str, Tensor], Batch], Tensor]
    recipe: Recipe
    record: RunRecord
    folder: Path
    interruption: Interruption
    progress: TrainingProgress | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    forward: Callable[[Any], Mapping[str, Tensor]] | None = None

    @property
    def steps(self) -> int:
        """Return the number of optimiser steps."""
        return self.recipe.total_steps(len(self.loader))


def fit(run: TrainingRun) -> None:
    """Train to the last step, from the last checkpoint if there is one.

    Args:
        run: The run.

    Raises:
        InvalidArgument: The network has no trainable parameters.
        TrainingFailed: The loss is not finite; the last checkpoint is still there.
        ModelFailed: The code of the network raised an error.
        StorageFailed: A checkpoint cannot be written.
        KeyboardInterrupt: A signal arrived; a checkpoint was written.
    """
    module, steps, identity = run.model.module, run.steps, run.record.identity
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise InvalidArgument(f"{run.model.spec}: nothing to train, got a network without trainable parameters")
    # Deferred from here on: the optimiser imports parts of torch, and a library that is half imported fails later.
    with run.interruption.deferring(), seeded(run.recipe.seed, run.model.device):
        optimizer = torch.optim.AdamW(parameters, lr=run.recipe.lr, weight_decay=run.recipe.weight_decay)
        done = saved_step = read_checkpoint(run.folder, module, optimizer, identity=identity)
        metrics = Metrics(run.folder, done)
        labels = LabelCheck(run.loss, done)
        saved = time.monotonic()
        module.train()
        batches = run.loader.stream(done)
        if run.progress is not None:
            run.progress(done, steps)
        try:
            while done < steps and run.interruption.received is None:
                loss, rate = _step(run, optimizer, parameters, done, next(batches), labels)
                done += 1
                if done % STEPS_PER_LINE == 0 or done == steps:
                    metrics.write(step=done, loss=loss, lr=rate)
                    if run.progress is not None:
                        run.progress(done, steps, loss=loss)
                if time.monotonic() - saved >= run.checkpoint_seconds:
                    write_checkpoint(run.folder, module, optimizer, step=done, identity=identity)
                    saved, saved_step = time.monotonic(), done
            if run.interruption.received is not None and done > saved_step:
                write_checkpoint(run.folder, module, optimizer, step=done, identity=identity)
                saved_step = done
        finally:
            batches.close()
    module.eval()
    resume = "run the same command again to resume" if saved_step else "nothing was saved"
    run.interruption.deliver(f"Interrupted at step {saved_step:,} of {steps:,}: {resume}.")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for dropout, and restore its random state afterwards.

    Args:
        seed: Seed of the recipe.
        device: Device that is trained on.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _step(
    run: TrainingRun,
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    step: int,
    batch: Batch,
    labels: LabelCheck,
) -> tuple[float, float]:
    """Take one step; return the loss and the learning rate."""
    rate = run.recipe.learning_rate(step, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    if batch.inputs is None:
        raise InvalidData("batch: has no inputs, got labels alone; expected data to train on. Name it with --data")
    model = run.model
    inputs = map_arrays(batch.inputs, lambda array: to_device(array, model.device, copy=model.user_code))
    with user_errors(model.spec, batch.inputs):
        value = model.module(inputs) if run.forward is None else run.forward(inputs)
    if run.forward is not None:
        outputs = dict(value)
    else:
        rows, positions = count_rows(batch.inputs)
        outputs = select_labelled(outputs_by_head(value, model.heads, rows=rows, spec=model.spec), batch.inputs)
        check_outputs(outputs, model.heads, rows=rows, positions=positions, spec=model.spec)
    loss = run.loss(outputs, batch)
    number = float(loss.detach())
    if not torch.isfinite(loss):
        shown = ", ".join(map(str, batch.rows[:5]))
        raise TrainingFailed(
            f"loss at step {step}: not finite, got {number} (rows {shown}, ...); expected a number. "
            "Use a lower --lr; the last checkpoint is still there"
        )
    labels.check(outputs, batch, number)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch
    torch.nn.utils.clip_grad_norm_(parameters, run.recipe.clip)
    optimizer.step()
    return number, rate
