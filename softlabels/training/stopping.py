"""Early stopping: a run ends if its held-out loss no longer falls, with the weights of the best evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from softlabels.models.digest import state_of


class EarlyStopping:
    """The best evaluation of a run.

    Args:
        patience: Evaluations without a lower loss after which the run ends; None: it does not end early.

    Attributes:
        best_loss: Lowest held-out loss.
        best_step: Steps that were done then.
        best: Weights and buffers of that step by name; empty before the first evaluation.
        failures: Evaluations since then.

    Example:
        >>> stopping = EarlyStopping(patience=1)
        >>> layer = nn.Linear(1, 1)
        >>> for step, loss in enumerate([3.0, 2.0, 2.5]):
        ...     stopping.add(step, loss, state_of(layer))
        >>> stopping.best_step, stopping.is_over
        (1, True)
    """

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self.best_loss, self.best_step, self.failures = math.inf, 0, 0
        self.best: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        """True if the run is to end."""
        return self._patience is not None and self.failures >= self._patience

    def add(self, step: int, loss: float, tensors: Mapping[str, Tensor]) -> None:
        """Add an evaluation.

        Args:
            step: Steps that are done.
            loss: Held-out loss.
            tensors: Weights and buffers that were evaluated, by name.
        """
        if self._patience is None:
            return
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.failures = loss, step, 0
            self.best = {name: value.detach().clone() for name, value in tensors.items()}
        else:
            self.failures += 1

    def state(self) -> dict[str, float]:
        """Return the state as JSON values, apart from the weights."""
        if not self.best:
            return {"failures": self.failures}
        return {"best_loss": self.best_loss, "best_step": self.best_step, "failures": self.failures}

    def load(self, state: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Restore the state.

        Args:
            state: Result of ``state``.
            tensors: Weights and buffers of the best evaluation.
        """
        self.best_loss = float(state.get("best_loss", math.inf))
        self.best_step, self.failures = int(state.get("best_step", 0)), int(state["failures"])
        self.best = dict(tensors)

    def restore(self, module: nn.Module) -> None:
        """Give a network the weights of the best evaluation, if there was one.

        Args:
            module: The network.
        """
        if self.best:
            for name, value in state_of(module).items():
                value.detach().copy_(self.best[name])
