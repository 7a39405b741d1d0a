"""Optimisers on the functions of ``torch.optim``, without its classes.

A class of ``torch.optim`` imports the compiler of torch and sympy when it is built, which takes 1.4 s of CPU. On a CPU
the fused functions take a tenth of the time of the default ones, which passes over each tensor ten times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

BETAS = 0.9, 0.999
EPSILON = 1e-8


class Optimizer(Protocol):
    """The part of ``torch.optim.Optimizer`` that training and ``GradScaler`` need.

    Attributes:
        param_groups: One group with ``params`` and ``lr``.
        state: Tensors by parameter and name.
    """

    param_groups: list[dict[str, Any]]
    state: dict[nn.Parameter, dict[str, Tensor]]

    def zero_grad(self) -> None:
        """Drop all gradients."""

    def step(self) -> None:
        """Update the parameters that have a gradient."""


class _OneGroup:
    """One group of parameters with options."""

    def __init__(self, parameters: Sequence[nn.Parameter], **options: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), **options}]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = defaultdict(dict)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def _updated(self) -> tuple[dict[str, Any], list[Any], list[Tensor]]:
        """Return the group, its parameters that have a gradient, and their gradients."""
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        return group, parameters, [parameter.grad for parameter in parameters]


class AdamW(_OneGroup):
    """AdamW with the defaults of ``torch.optim.AdamW`` for betas and epsilon.

    Args:
        parameters: Parameters to train.
        lr: Learning rate.
        weight_decay: Weight decay.

    Attributes:
        param_groups: One group with ``params``, ``lr`` and ``weight_decay``.
        state: ``step``, on the CPU, and the moments ``exp_avg`` and ``exp_avg_sq`` by parameter.

    Example:
        >>> weight = nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> AdamW([weight], lr=0.5, weight_decay=0.0).step()
        >>> round(weight.item(), 3)
        0.5
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        group, parameters, gradients = self._updated()
        for parameter in parameters:
            if not self.state[parameter]:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.tensor(0.0), **moments}
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=_can_be_fused(parameters, gradients) or None,
            has_complex=any(map(torch.is_complex, parameters)),
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPSILON,
            maximize=False,
        )


class SGD(_OneGroup):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    Args:
        parameters: Parameters to train.
        lr: Learning rate.
        momentum: Momentum, 0 to 1.
        weight_decay: Weight decay.

    Attributes:
        param_groups: One group with ``params``, ``lr``, ``momentum`` and ``weight_decay``.
        state: ``momentum_buffer`` by parameter.

    Example:
        >>> weight = nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> SGD([weight], lr=0.5, momentum=0.9, weight_decay=0.0).step()
        >>> weight.item()
        0.5
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        group, parameters, gradients = self._updated()
        if group["momentum"] != 0:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                # The first buffer is the gradient, as in torch; a buffer of zeros becomes that in the first step.
                if not self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in parameters]
        sgd(
            parameters,
            gradients,
            buffers,
            has_sparse_grad=any(gradient.is_sparse for gradient in gradients),
            fused=_can_be_fused(parameters, gradients) or None,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


def _can_be_fused(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> bool:
    """Return True if the fused functions for a CPU apply; they take the memory of a tensor in its order."""
    return all(
        parameter.device.type == "cpu"
        and parameter.is_floating_point()
        and not gradient.is_sparse
        and parameter.is_contiguous()
        and gradient.is_contiguous()
        for parameter, gradient in zip(parameters, gradients, strict=True)
    )
