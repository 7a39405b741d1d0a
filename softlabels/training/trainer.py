"""The training loop, for teachers and students alike.

The identity of a run decides its result to the bit on one device: batches, learning rate and dropout are functions of
the seed and the step, and a checkpoint holds the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from softlabels.errors import InvalidArgument
from softlabels.interruption import Interruption
from softlabels.loading import Loader
from softlabels.models import Model
from softlabels.models.digest import state_of
from softlabels.models.run_record import RunRecord
from softlabels.training.checkpoint import load_checkpoint, read_checkpoint_file, write_checkpoint
from softlabels.training.distributed import Workers
from softlabels.training.metrics import Metrics
from softlabels.training.optimization import MixedPrecision, WeightAverage, copy_state, new_optimizer
from softlabels.training.recipe import Recipe
from softlabels.training.state import TrainingState
from softlabels.training.step import Requests, Stepper, StepResult
from softlabels.training.stopping import EarlyStopping
from softlabels.training.tasks import Objectives, Outputs, Task
from softlabels.training.trackers import Tracker
from softlabels.training.validation import Validation

TRAINER_VERSION = 5
"""Version of this code. Increment it if the same recipe would train other weights."""

CHECKPOINT_SECONDS = 20.0
"""Default time between checkpoints: what a kill may cost."""

CHECKPOINT_SHARE = 100
"""The time between checkpoints is at least this many times as long as the last one took."""


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
        task: Heads and labels.
        objectives: Losses.
        recipe: Options.
        record: Description of the run.
        folder: Run directory.
        interruption: Signals that end the run after the step at hand.
        workers: Processes that train together.
        validation: Held-out rows; None without evaluation.
        progress: Callback; None: nothing is shown.
        trackers: Receivers of the metrics.
        checkpoint_seconds: Time between checkpoints in seconds; 0: after each step.
        keep_checkpoints: Number of checkpoints to preserve.
        forward: Maps inputs to what the losses take in place of outputs by head; None: the network.
    """

    model: Model
    loader: Loader
    task: Task
    objectives: Objectives
    recipe: Recipe
    record: RunRecord
    folder: Path
    interruption: Interruption
    workers: Workers = field(default_factory=Workers)
    validation: Validation | None = None
    progress: TrainingProgress | None = None
    trackers: Sequence[Tracker] = ()
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    keep_checkpoints: int = 1
    forward: Callable[[Any], Outputs] | None = None

    @property
    def steps(self) -> int:
        """The number of optimiser steps."""
        return self.recipe.total_steps(len(self.loader))

    @property
    def eval_every(self) -> int | None:
        """The steps between evaluations; None without any."""
        if self.validation is None:
            return None
        return self.recipe.eval_every or len(self.loader)


def fit(run: TrainingRun) -> int:
    """Train to the last step, from the last checkpoint if there is one.

    Args:
        run: The run.

    Returns:
        The number of steps that were done.

    Raises:
        InvalidArgument: The network has no trainable parameters, or the device lacks the precision.
        TrainingFailed: The loss or its gradient is not finite; the last checkpoint is still there.
        ModelFailed: The code of the network raised an error.
        StorageFailed: A checkpoint cannot be written.
        WorkerDied: Another process of the run ended.
        KeyboardInterrupt: A signal arrived; a checkpoint was written.
    """
    # Deferred from here on: the optimiser imports parts of torch, and a library that is half imported fails later.
    with run.interruption.deferring(), _restored_random_state(run.model.device):
        loop = _TrainingLoop(run)
        loop.resume()
        loop.train()
    saved = loop.saved_step
    resume = "run the same command again to resume" if saved else "nothing was saved"
    message = f"Interrupted at step {saved:,} of {run.steps:,}: {resume}."
    run.interruption.deliver(message)
    if loop.is_interrupted:
        raise KeyboardInterrupt(message)  # the signal reached another process
    loop.finish()
    return loop.state.step


class _TrainingLoop:
    """A run in this process: from the step it resumes from to the step it ends at."""

    def __init__(self, run: TrainingRun) -> None:
        module = run.model.module
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not parameters:
            raise InvalidArgument(f"{run.model.spec}: nothing to train, got a network without trainable parameters")
        self.run = run
        self.state = TrainingState(
            module=module,
            optimizer=new_optimizer(run.recipe, parameters),
            precision=MixedPrecision(run.recipe, run.model.device),
            average=None if run.recipe.ema is None else WeightAverage(module, run.recipe.ema),
            stopping=EarlyStopping(run.recipe.patience),
        )
        self.saved_step = 0
        self.is_interrupted = False
        self._stepper = Stepper(run, self.state, parameters)
        self._saved_at = self._began = time.monotonic()
        self._earlier_seconds = self._checkpoint_cost = 0.0

    def resume(self) -> None:
        """Restore the last checkpoint, in all processes."""
        run = self.run
        file = run.workers.on_first(lambda: read_checkpoint_file(run.folder, self.state))
        self.saved_step = load_checkpoint(file, self.state, folder=run.folder, identity=run.record.identity)
        self._earlier_seconds = self.state.seconds
        if run.workers.is_first:
            self._metrics = Metrics(run.folder, self.saved_step)
        self._stepper.start()

    def train(self) -> None:
        """Take steps until the last one, a signal, the limit of time, or the end of the patience."""
        run, state = self.run, self.state
        state.module.train()
        batches = run.loader.stream(state.step)
        self._show({})
        try:
            while state.step < run.steps and not state.stopping.is_over:
                is_logged = self._is_logged(state.step + 1)
                result = self._stepper.take(next(batches), self._requests(), is_logged=is_logged)
                if result is None:
                    break
                self._report(result)
                self._evaluate()
                if result.is_due:
                    self._save()
            self.is_interrupted = self._stepper.is_interrupted or run.interruption.received is not None
            if self.is_interrupted and state.step > self.saved_step:
                self._save()
        finally:
            batches.close()

    def finish(self) -> None:
        """Give the network the weights that are the result."""
        state = self.state
        if state.stopping.best:
            state.stopping.restore(state.module)
        elif state.average is not None:
            copy_state(state.average.tensors, state.module)
        state.module.eval()

    def _requests(self) -> Requests:
        """Return the wishes of this process; the cost of checkpoints stays below a share of the time."""
        limit, interval = self.run.recipe.max_seconds, self.run.checkpoint_seconds
        since = time.monotonic() - self._saved_at
        return Requests(
            interrupted=self.run.interruption.received is not None,
            late=limit is not None and self._seconds() >= limit and self.state.step > 0,
            due=since >= (max(interval, CHECKPOINT_SHARE * self._checkpoint_cost) if interval > 0 else 0),
        )

    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._began

    def _is_logged(self, step: int) -> bool:
        return step % self.run.recipe.log_every == 0 or step == self.run.steps

    def _report(self, result: StepResult) -> None:
        step = self.state.step
        if not self._is_logged(step):
            return
        figures = {"loss": result.loss, "lr": result.rate, **result.figures}
        self._log(figures)
        speed = (
            (step - self._stepper.first_step) * self.run.recipe.batch_size / max(time.monotonic() - self._began, 1e-9)
        )
        shown = {name: value for name, value in figures.items() if name != "lr"}
        self._show(shown | {"rows/s": speed})

    def _evaluate(self) -> None:
        run, state, every = self.run, self.state, self.run.eval_every
        if every is None or run.validation is None or (state.step % every and state.step != run.steps):
            return
        run.workers.copy_buffers(state.module)
        with nullcontext() if state.average is None else state.average.applied(state.module):
            figures = run.validation.measure()
            state.stopping.add(state.step, figures["loss"], state_of(state.module))
        state.module.train()
        self._log({f"held_out.{name}": value for name, value in figures.items()})
        self._show({f"held-out {name}": value for name, value in figures.items()})

    def _log(self, figures: Mapping[str, float]) -> None:
        if self.run.workers.is_first:
            self._metrics.write(self.state.step, figures)
            for tracker in self.run.trackers:
                tracker.log(self.state.step, figures)

    def _show(self, figures: Mapping[str, float]) -> None:
        if self.run.progress is not None and self.run.workers.is_first:
            self.run.progress(self.state.step, self.run.steps, **figures)

    def _save(self) -> None:
        """Write a checkpoint; each process takes part in the copy of buffers, the first one writes."""
        run, state = self.run, self.state
        run.workers.copy_buffers(state.module)
        state.seconds = self._seconds()
        began = time.monotonic()
        if run.workers.is_first:
            self._metrics.sync()
            write_checkpoint(run.folder, state, identity=run.record.identity, keep=run.keep_checkpoints)
        self._saved_at, self.saved_step = time.monotonic(), state.step
        self._checkpoint_cost = self._saved_at - began


@contextmanager
def _restored_random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's random state after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
