"""One optimiser step: shares of a batch forward and backward, sums over processes, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from softlabels import rng
from softlabels.errors import InvalidData, TrainingFailed
from softlabels.loading import Batch
from softlabels.models.failures import user_errors
from softlabels.models.model import count_rows, select_labelled, to_device
from softlabels.models.outputs import check_outputs, outputs_by_head
from softlabels.sources import map_arrays
from softlabels.training.figures import FigureSums
from softlabels.training.label_check import LabelChecks
from softlabels.training.state import TrainingState
from softlabels.training.tasks import Outputs

if TYPE_CHECKING:
    from softlabels.training.trainer import TrainingRun

MAX_NAMED = 5
"""Rows that a message names."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The result of a step.

    Attributes:
        loss: Loss over the rows of all processes.
        rate: Learning rate.
        figures: Figures of the outputs before the update; empty unless the step is logged.
        is_due: If True, a checkpoint is to be written after the step.
    """

    loss: float
    rate: float
    figures: dict[str, float]
    is_due: bool


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Wishes of one process before a step, which all processes follow.

    Attributes:
        interrupted: A signal arrived.
        late: The time of the run is over.
        due: It is time for a checkpoint.
    """

    interrupted: bool = False
    late: bool = False
    due: bool = False


class Stepper:
    """Takes the steps of a run.

    Args:
        run: The run.
        state: Its state, which each step changes.
        parameters: Parameters that are trained.

    Attributes:
        first_step: Step that this process resumed from.
        is_interrupted: If True, a process received a signal before the last step.
    """

    def __init__(self, run: TrainingRun, state: TrainingState, parameters: Sequence[nn.Parameter]) -> None:
        self._run, self._state, self._parameters = run, state, parameters
        self.first_step = 0
        self.is_interrupted = False
        forward: Callable[[Any], Any] = run.model.module if run.forward is None else run.forward
        self._forward = torch.compile(forward) if run.recipe.compile else forward

    def start(self) -> None:
        """Continue at the step of the state."""
        self.first_step = self._state.step
        self._labels = LabelChecks(self._run.objectives, self.first_step)

    def take(self, batch: Batch, requests: Requests, *, is_logged: bool) -> StepResult | None:
        """Take a step; return None, and take none, if the time of the run is over or it was interrupted.

        Args:
            batch: Rows of this process.
            requests: Wishes of this process.
            is_logged: If True, figures are measured.

        Raises:
            TrainingFailed: The loss or its gradient is not finite.
        """
        run, state = self._run, self._state
        shares = _shares(batch, run.recipe.accumulation)
        counts = [run.objectives.counts(share) for share in shares]
        local = np.sum(counts, axis=0) if counts else np.zeros(len(run.objectives))
        flags = [float(flag) for flag in (requests.interrupted, requests.late, requests.due)]
        *totals, interrupted, late, due = run.workers.sum([*local, *flags])
        self.is_interrupted = interrupted > 0
        if interrupted or late:
            return None
        rate = run.recipe.learning_rate(state.step, run.steps)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad()
        sums = FigureSums(run.task, None) if is_logged else None
        loss = 0.0
        for index, share in enumerate(shares):
            loss += self._add_gradients(share, index, np.array(totals), sums)
        run.workers.sum_gradients(self._parameters)
        loss = float(run.workers.sum([loss])[0])
        if not np.isfinite(loss):
            raise TrainingFailed(
                f"loss at step {state.step}: not finite, got {loss} on another process; expected a number. Use a lower "
                "learning rate, lr=; earlier checkpoints are unchanged"
            )
        self._update(batch)
        state.step += 1
        if state.average is not None:
            state.average.update(state.module, state.step)
        figures = {} if sums is None else sums.figures(run.workers.sum(sums.totals()))
        return StepResult(loss=loss, rate=rate, figures=figures, is_due=due > 0)

    def _add_gradients(self, share: Batch, index: int, totals: NDArray[np.float64], sums: FigureSums | None) -> float:
        """Add the gradients of a share of the step; return its share of the loss."""
        run, state = self._run, self._state
        stream = run.workers.rank * run.recipe.accumulation + index
        # Dropout is a function of seed, step and share, so that a resumed run draws the same.
        word = rng.words(run.recipe.seed, np.array([state.step]), np.array([stream]), stream=rng.TRAINING_STREAM)
        torch.manual_seed(int(word[0]) >> 1)
        with state.precision.autocast():
            outputs = self._outputs(share)
            loss = run.objectives.share(outputs, share, totals)
        number = float(loss.detach())
        if not np.isfinite(number):
            raise TrainingFailed(
                f"loss at step {state.step}: not finite, got {number} ({_name_rows(outputs, share)}); expected a "
                "number. Use a lower learning rate, lr=; earlier checkpoints are unchanged"
            )
        self._labels.check(outputs, share)
        if sums is not None:
            sums.add({name: output.detach() for name, output in outputs.items()}, share)
        state.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch
        return number

    def _update(self, batch: Batch) -> None:
        run, state = self._run, self._state
        scaler = state.precision.scaler
        optimizer: Any = state.optimizer
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, run.recipe.clip)
        # A scaler skips steps whose gradient overflows, and lowers its scale.
        if not scaler.is_enabled() and not torch.isfinite(norm):
            raise TrainingFailed(
                f"gradient at step {state.step}: not finite, got norm {float(norm)} ({_name_rows({}, batch)}); "
                "expected a number. Use a lower learning rate, lr=; earlier checkpoints are unchanged"
            )
        scaler.step(optimizer)
        scaler.update()

    def _outputs(self, batch: Batch) -> Outputs:
        """Return the outputs of the network, checked against its heads."""
        run, model = self._run, self._run.model
        if batch.inputs is None:
            raise InvalidData("batch: has no inputs, got labels alone; expected data to train on. Name it with data=")
        inputs = map_arrays(batch.inputs, lambda array: to_device(array, model.device, copy=model.user_code))
        with user_errors(model.spec, batch.inputs):
            value = self._forward(inputs)
        if run.forward is not None:
            return dict(value)
        rows, positions = count_rows(batch.inputs)
        outputs = select_labelled(outputs_by_head(value, model.heads, rows=rows, spec=model.spec), batch.inputs)
        check_outputs(outputs, model.heads, rows=rows, positions=positions, spec=model.spec)
        return outputs


def _shares(batch: Batch, count: int) -> list[Batch]:
    """Return a batch in ``count`` shares of nearly equal size, without empty ones."""
    if count == 1:
        return [batch] if len(batch) else []
    bounds = np.linspace(0, len(batch), count + 1).astype(np.int64)
    return [batch.take(np.arange(start, stop)) for start, stop in pairwise(bounds) if stop > start]


def _name_rows(outputs: Outputs, batch: Batch) -> str:
    """Return the rows whose outputs are not finite, or else the first ones of the batch, in words."""
    rows = batch.rows
    for output in outputs.values():
        is_row = len(output) == len(rows)
        invalid = ~output.detach().flatten(1).isfinite().all(dim=1) if is_row else torch.zeros(0, dtype=torch.bool)
        if invalid.any() and not invalid.all():
            rows = batch.rows[invalid.cpu().numpy()]
    more = ", ..." if len(rows) > MAX_NAMED else ""
    return f"rows {', '.join(map(str, rows[:MAX_NAMED]))}{more}"
