"""Per-row losses of student logits, computed a few MiB at a time in both directions.

Only the student's own logits are stored between the two passes. The backward pass computes each block again and writes
its gradient, in the student's dtype, into the tensor that autograd returns. All arithmetic is in float32, also inside
an autocast region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ELEMENTS = {"cpu": 2**20}
"""Logits per block, by type of device."""
ELEMENTS_ELSEWHERE = 2**24
"""Logits per block on other devices."""

Targets = Any
"""An object with ``rows(start, stop)`` that the rule understands."""

Value = Callable[[Tensor, Targets], Tensor]
"""Maps the student's log-probabilities at T, (n, C) float32, and targets to (n,) losses."""


@dataclass(frozen=True)
class Rule:
    """Definition of a per-row loss.

    Attributes:
        value: Loss of each row.
        gradient: Gradient of the summed loss with respect to the student's logits over T, (n, C), from the same
            arguments as ``value``. None: computed by autograd.
    """

    value: Value
    gradient: Callable[[Tensor, Targets], Tensor] | None = None

    def gradient_of(self, scaled: Tensor, targets: Targets) -> Tensor:
        """Return the gradient of each row's loss with respect to (n, C) logits over T."""
        if self.gradient is not None:
            return self.gradient(scaled.log_softmax(dim=-1), targets)
        with torch.enable_grad():
            leaf = scaled.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.value(leaf.log_softmax(dim=-1), targets).sum(), leaf)
        return gradient


def per_row(logits: Tensor, targets: Targets, rule: Rule, temperature: float = 1.0) -> Tensor:
    """Return the loss of each row, (N,) float32.

    Args:
        logits: (N, C) student logits of any float dtype.
        targets: Targets of the same rows.
        rule: Definition of the loss.
        temperature: Temperature T that the logits are divided by.
    """
    losses: Tensor = _PerRow.apply(logits, targets, rule, temperature)  # type: ignore[no-untyped-call]
    return losses


def per_row_of_linear(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Targets, rule: Rule, temperature: float
) -> Tensor:
    """Return the loss of each row of ``states @ weight.T + bias``, (N,) float32, without holding all logits.

    Args:
        states: (N, D) inputs of the linear layer.
        weight: (C, D) weight of the layer.
        bias: (C,) bias of the layer, or None.
        targets: Targets of the same rows.
        rule: Definition of the loss.
        temperature: Temperature T that the logits are divided by.
    """
    losses: Tensor = _PerRowOfLinear.apply(states, weight, bias, targets, rule, temperature)  # type: ignore[no-untyped-call]
    return losses


def blocks(rows: int, classes: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of successive blocks of rows."""
    step = max(1, ELEMENTS.get(device.type, ELEMENTS_ELSEWHERE) // max(1, classes))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context in which operations on the tensor's device keep their dtype."""
    return torch.autocast(tensor.device.type, enabled=False)


class _PerRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Targets, rule: Rule, temperature: float) -> Tensor:
        losses = logits.new_empty(len(logits), dtype=torch.float32)
        with without_autocast(logits):
            for start, stop in blocks(len(logits), logits.shape[1], logits.device):
                log_q = _over(logits[start:stop], temperature).log_softmax(dim=-1)
                losses[start:stop] = rule.value(log_q, targets.rows(start, stop))
        ctx.save_for_backward(logits)
        ctx.arguments = targets, rule, temperature
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        targets, rule, temperature = ctx.arguments
        gradient = torch.empty_like(logits)
        with without_autocast(logits):
            for start, stop in blocks(len(logits), logits.shape[1], logits.device):
                block = rule.gradient_of(_over(logits[start:stop], temperature), targets.rows(start, stop))
                gradient[start:stop] = _times(block, upstream[start:stop] / temperature)
        return gradient, None, None, None


class _PerRowOfLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  autograd passes by position
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Targets, rule: Rule, temperature: float
    ) -> Tensor:
        kind = states.device.type
        # Products follow autocast, as those of a linear layer would; the loss of them does not.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        losses = states.new_empty(len(states), dtype=torch.float32)
        with without_autocast(states):
            for start, stop in blocks(len(states), len(weight), states.device):
                logits = _linear(states[start:stop], weight, bias, dtype)
                log_q = _over(logits, temperature).log_softmax(dim=-1)
                losses[start:stop] = rule.value(log_q, targets.rows(start, stop))
        ctx.save_for_backward(states, weight, bias)
        ctx.arguments = targets, rule, temperature, dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias = ctx.saved_tensors
        targets, rule, temperature, dtype = ctx.arguments
        for_states = torch.empty_like(states)
        for_weight = torch.zeros_like(weight, dtype=torch.float32)
        for_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        with without_autocast(states):
            for start, stop in blocks(len(states), len(weight), states.device):
                logits = _linear(states[start:stop], weight, bias, dtype)
                block = rule.gradient_of(_over(logits, temperature), targets.rows(start, stop))
                block = _times(block, upstream[start:stop] / temperature)
                if for_bias is not None:
                    for_bias += block.sum(dim=0)
                narrow = block.to(dtype)
                for_states[start:stop] = narrow @ weight.to(dtype)
                # A row that is masked out may hold NaN, and 0 times NaN is NaN.
                inputs = states[start:stop].masked_fill((upstream[start:stop] == 0)[:, None], 0.0)
                for_weight += narrow.T @ inputs.to(dtype)
        return (
            for_states,
            for_weight.to(weight.dtype),
            None if for_bias is None else for_bias.to(bias.dtype),
            *[None] * 3,
        )


def _linear(states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    bias = None if bias is None else bias.to(dtype)
    return torch.nn.functional.linear(states.to(dtype), weight.to(dtype), bias)


def _times(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply a gradient by that from above, (n,); a row that is masked out is 0 even if its loss is infinite."""
    return gradient.mul_(upstream[:, None]).masked_fill_((upstream == 0)[:, None], 0.0)


def _over(logits: Tensor, temperature: float) -> Tensor:
    """Return logits over T in float32."""
    scaled = logits.float()
    return scaled if temperature == 1 else scaled / temperature
