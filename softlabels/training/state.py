"""The state of a run between two steps: everything that the next steps depend on beside data and recipe.

Dropout takes random numbers that are a function of seed, step and process, so there is no random state to store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softlabels.models.digest import state_of
from softlabels.training.optimization import MixedPrecision, WeightAverage
from softlabels.training.optimizers import Optimizer
from softlabels.training.stopping import EarlyStopping

ON_CPU = "step"
"""Entry of the optimiser's state that stays on the CPU."""


@dataclass
class TrainingState:
    """The state of a run between two steps.

    Attributes:
        module: Network that is trained.
        optimizer: Its optimiser.
        precision: Scaler of the losses.
        average: Moving average of the weights; None without one.
        stopping: Best evaluation.
        step: Steps that are done.
        seconds: Time that they took, over all sessions.
    """

    module: nn.Module
    optimizer: Optimizer
    precision: MixedPrecision
    average: WeightAverage | None
    stopping: EarlyStopping
    step: int = 0
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        tensors = {f"model/{name}": value for name, value in state_of(self.module).items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.tensors.items()}
        return tensors | {f"best/{name}": value for name, value in self.stopping.best.items()}

    def numbers(self) -> dict[str, Any]:
        """Return everything else as JSON values."""
        return {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "scaler": self.precision.state(),
            "stopping": self.stopping.state(),
        }

    def load(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Restore the state, in place.

        Args:
            numbers: Result of ``numbers``.
            tensors: Result of ``tensors``.

        Raises:
            KeyError: A tensor or number is missing.
            RuntimeError: A tensor of the network has another shape.
            OverflowError: A number is infinite.
            ValueError: Another tensor has another shape, or the step is no number from 1.
        """
        groups: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            group, _, name = path.partition("/")
            groups.setdefault(group, {})[name] = value
        unknown = set(groups) - {"model", "optimizer", "average", "best"}
        if unknown or ("average" in groups) != (self.average is not None):
            raise ValueError(f"its tensors are {', '.join(sorted(groups))}")
        extra = {name: value for name, value in self.module.state_dict().items() if not isinstance(value, Tensor)}
        self.module.load_state_dict(groups["model"] | extra)
        parameters = dict(self.module.named_parameters())
        for path, value in groups.get("optimizer", {}).items():
            key, _, name = path.partition("/")
            parameter = parameters[name]
            if value.shape != (() if key == ON_CPU else parameter.shape):
                raise ValueError(f"{path} has shape {tuple(value.shape)}")
            self.optimizer.state[parameter][key] = value if key == ON_CPU else value.to(parameter.device)
        if self.average is not None:
            for name, value in self.average.tensors.items():
                value.copy_(groups["average"][name])
        best = {name: value.to(self._device(name)) for name, value in groups.get("best", {}).items()}
        self.stopping.load(numbers["stopping"], best)
        self.precision.load(numbers["scaler"])
        if type(numbers["step"]) is not int or numbers["step"] < 1:
            raise ValueError(f"its step is {numbers['step']!r:.40}")
        self.step, self.seconds = numbers["step"], float(numbers["seconds"])

    def _device(self, name: str) -> torch.device:
        return state_of(self.module)[name].device
