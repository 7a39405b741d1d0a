"""The optimiser of a recipe, mixed precision, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from softlabels.errors import InvalidArgument
from softlabels.models.digest import state_of
from softlabels.training.optimizers import SGD, AdamW, Optimizer
from softlabels.training.recipe import Recipe

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def new_optimizer(recipe: Recipe, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Return the optimiser of a recipe.

    Args:
        recipe: Options of the run.
        parameters: Parameters to train.

    Example:
        >>> type(new_optimizer(Recipe(optimizer="sgd"), [nn.Parameter(torch.zeros(1))])).__name__
        'SGD'
    """
    if recipe.optimizer == "sgd":
        return SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


class MixedPrecision:
    """Products in 16 bits, with losses scaled for fp16.

    Args:
        recipe: Options of the run.
        device: Device that is trained on.

    Attributes:
        scaler: Scaler of the losses; it passes them on unless the precision is fp16.

    Raises:
        InvalidArgument: The device does not support the precision.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._dtype = DTYPES.get(recipe.precision)
        self._device = device.type
        if recipe.precision == "fp16" and device.type != "cuda":
            raise InvalidArgument(f"precision: fp16 needs a GPU, got device {device}; expected bf16 or float32")
        if recipe.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise InvalidArgument(f"precision: {device} has no bf16, got 'bf16'; expected fp16 or float32")
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute products in the dtype of the recipe while the block runs."""
        if self._dtype is None:
            yield
            return
        with torch.autocast(self._device, self._dtype):
            yield

    def state(self) -> dict[str, float]:
        """Return the state of the scaler as JSON values; empty without one."""
        state = self.scaler.state_dict()
        return {name: float(value) for name, value in state.items()}

    def load(self, state: Mapping[str, float]) -> None:
        """Restore the state of the scaler.

        Args:
            state: What ``state`` returned.
        """
        if state:
            values = {
                name: int(value) if name.startswith(("growth_i", "_growth_t")) else value
                for name, value in state.items()
            }
            self.scaler.load_state_dict(values)


class WeightAverage:
    """An exponential moving average of the weights and buffers of a network.

    The decay rises from 0.1 over the first steps, so that the initial weights are forgotten.

    Args:
        module: The network.
        decay: Decay of the average, 0 to 1.

    Attributes:
        tensors: Averages by name.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(layer, decay=0.5)
        >>> before = layer.weight.item()
        >>> with torch.no_grad(): _ = layer.weight.add_(1)
        >>> average.update(layer, step=100)
        >>> round(average.tensors["weight"].item() - before, 3)
        0.5
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors = {name: value.detach().clone() for name, value in state_of(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Add the weights of a step.

        Args:
            module: The network.
            step: Number of steps that are done.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in state_of(module).items():
            average = self.tensors[name]
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), 1 - decay)
            else:
                average.copy_(value)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Give a network the averages while the block runs.

        Args:
            module: The network.
        """
        before = {name: value.detach().clone() for name, value in state_of(module).items()}
        copy_state(self.tensors, module)
        try:
            yield
        finally:
            copy_state(before, module)


@torch.no_grad()
def copy_state(tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    """Copy tensors into the weights and buffers of a network, in place.

    Args:
        tensors: Tensors by name.
        module: The network.
    """
    for name, value in state_of(module).items():
        value.copy_(tensors[name])
