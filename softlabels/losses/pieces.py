"""Losses a row, a few MiB of logits at a time, forwards and backwards.

Between the two passes nothing is kept but the student's own logits: the backward pass computes each piece again and
writes its gradient, in the student's dtype, where autograd wants it. Reductions are in float32 whatever that dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ELEMENTS = {"cpu": 2**20}
"""Logits of a piece, by kind of device."""
ELEMENTS_ELSEWHERE = 2**24

Targets = Any
"""What has ``rows(start, stop)``, and is made for the rule."""

Value = Callable[[Tensor, Targets], Tensor]
"""Student logits over T, (n, C) float32, and targets to a loss a row, (n,)."""


@dataclass(frozen=True)
class Rule:
    """How a loss is computed.

    Attributes:
        value: the loss of each row.
        gradient: (n, C), of the sum of the rows with respect to the logits over T; None: by autograd.
    """

    value: Value
    gradient: Callable[[Tensor, Targets], Tensor] | None = None

    def gradient_of(self, scaled: Tensor, targets: Targets) -> Tensor:
        """The gradient of each row's loss with respect to its logits over T, (n, C)."""
        if self.gradient is not None:
            return self.gradient(scaled, targets)
        with torch.enable_grad():
            leaf = scaled.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.value(leaf, targets).sum(), leaf)
        return gradient


def per_row(logits: Tensor, targets: Targets, rule: Rule, temperature: float) -> Tensor:
    """The loss of each row, (N,) float32, of (N, C) student logits of any float dtype."""
    found: Tensor = _PerRow.apply(logits, targets, rule, temperature)  # type: ignore[no-untyped-call]
    return found


def per_row_of_linear(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Targets, rule: Rule, temperature: float
) -> Tensor:
    """The same of logits = states @ weight.T + bias, which are never held as a whole; (N, D), (C, D), (C,)."""
    found: Tensor = _PerRowOfLinear.apply(states, weight, bias, targets, rule, temperature)  # type: ignore[no-untyped-call]
    return found


def pieces(rows: int, classes: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Bounds of pieces of rows."""
    step = max(1, ELEMENTS.get(device.type, ELEMENTS_ELSEWHERE) // max(1, classes))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


class _PerRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Targets, rule: Rule, temperature: float) -> Tensor:
        out = logits.new_empty(len(logits), dtype=torch.float32)
        for start, stop in pieces(len(logits), logits.shape[1], logits.device):
            out[start:stop] = rule.value(_over(logits[start:stop], temperature), targets.rows(start, stop))
        ctx.save_for_backward(logits)
        ctx.told = targets, rule, temperature
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        targets, rule, temperature = ctx.told
        gradient = torch.empty_like(logits)
        for start, stop in pieces(len(logits), logits.shape[1], logits.device):
            piece = rule.gradient_of(_over(logits[start:stop], temperature), targets.rows(start, stop))
            gradient[start:stop] = _times(piece, upstream[start:stop] / temperature)
        return gradient, None, None, None


class _PerRowOfLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  autograd passes by position
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Targets, rule: Rule, temperature: float
    ) -> Tensor:
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        out = states.new_empty(len(states), dtype=torch.float32)
        with torch.autocast(kind, enabled=False):
            for start, stop in pieces(len(states), len(weight), states.device):
                logits = _linear(states[start:stop], weight, bias, dtype)
                out[start:stop] = rule.value(_over(logits, temperature), targets.rows(start, stop))
        ctx.save_for_backward(states, weight, bias)
        ctx.told = targets, rule, temperature, dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias = ctx.saved_tensors
        targets, rule, temperature, dtype = ctx.told
        for_states = torch.empty_like(states)
        for_weight = torch.zeros_like(weight, dtype=torch.float32)
        for_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start, stop in pieces(len(states), len(weight), states.device):
            logits = _linear(states[start:stop], weight, bias, dtype)
            piece = rule.gradient_of(_over(logits, temperature), targets.rows(start, stop))
            piece = _times(piece, upstream[start:stop] / temperature)
            if for_bias is not None:
                for_bias += piece.sum(dim=0)
            narrow = piece.to(dtype)
            for_states[start:stop] = narrow @ weight.to(dtype)
            for_weight += narrow.T @ states[start:stop].to(dtype)
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
    """Rows of a gradient by what comes from above; a row that is masked out stays 0 though its loss be infinite."""
    return gradient.mul_(upstream[:, None]).masked_fill_((upstream == 0)[:, None], 0.0)


def _over(logits: Tensor, temperature: float) -> Tensor:
    """Logits in float32, over T."""
    scaled = logits.float()
    return scaled if temperature == 1 else scaled / temperature
