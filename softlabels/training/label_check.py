"""A check that labels reach the loss.

The outputs of a batch are permuted among its rows, or positions, and the loss is computed again. If that changes
nothing in the first batches, the loss does not depend on which row has which label: labels were dropped on the way, and
training would only look as if it worked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from softlabels.errors import TrainingFailed
from softlabels.loading import Batch
from softlabels.training.tasks import Objectives

CHECKED_STEPS = 8
"""First steps that are checked: outputs or labels of a single batch may happen to be equal."""

MIN_CHANGE = 1e-5
"""Relative change of the loss; the order of additions changes it by less."""


class LabelCheck:
    """Checks of the first steps of a run.

    Args:
        loss: Maps (outputs by head, batch) to a scalar.
        done: Steps that are done; a run that resumes later is not checked.
    """

    def __init__(self, loss: Callable[[Mapping[str, Tensor], Batch], Tensor], done: int) -> None:
        self._loss = loss
        self._changes = done >= CHECKED_STEPS
        self._checked = 0

    @property
    def is_done(self) -> bool:
        """True if the labels changed the loss, so that nothing remains to be checked."""
        return self._changes

    def check_outputs(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Check a step whose loss is not known yet; see ``check``.

        Args:
            outputs: Outputs of the batch by head.
            batch: The batch.
        """
        with torch.no_grad():
            value = float(self._loss({name: output.detach() for name, output in outputs.items()}, batch))
        self.check(outputs, batch, value)

    def check(self, outputs: Mapping[str, Tensor], batch: Batch, value: float) -> None:
        """Check a step.

        Args:
            outputs: Outputs of the batch by head.
            batch: The batch.
            value: Loss of the batch.

        Raises:
            TrainingFailed: The labels did not change the loss in any of the first steps.
        """
        if self._changes or any(len(output) < 2 for output in outputs.values()):
            return
        with torch.no_grad():
            permuted = {name: output.detach().roll(1, dims=0) for name, output in outputs.items()}
            other = float(self._loss(permuted, batch))
        self._checked += 1
        self._changes = abs(other - value) > MIN_CHANGE * max(abs(other), abs(value))
        if not self._changes and self._checked == CHECKED_STEPS:
            raise TrainingFailed(
                f"labels: do not reach the loss, got {value:.6g} with the labels of each row and {other:.6g} with "
                f"those of other rows, in {self._checked} batches; expected another loss. Are labels dropped on the "
                "way, or all equal?"
            )


class LabelChecks:
    """A check of each head of a run.

    Args:
        objectives: Losses of the run.
        done: Steps that are done.
    """

    def __init__(self, objectives: Objectives, done: int) -> None:
        self._checks = {head: LabelCheck(_head_loss(objectives, head), done) for head in objectives.heads}

    def check(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Check a step.

        Args:
            outputs: Outputs of the batch by head.
            batch: The batch.

        Raises:
            TrainingFailed: The labels of a head did not change the loss in any of the first steps.
        """
        for check in self._checks.values():
            if not check.is_done:
                check.check_outputs(outputs, batch)


def _head_loss(objectives: Objectives, head: str) -> Callable[[Mapping[str, Tensor], Batch], Tensor]:
    return lambda outputs, batch: objectives.share(outputs, batch, objectives.counts(batch), head)
