"""Means over rows of losses of student logits, computed a few MiB at a time.

If a gradient is wanted, the forward pass computes it beside the loss, while a block is in the processor's cache, and
the backward pass scales it. It takes the place of the gradient that autograd would allocate, in the student's dtype. A
second backward pass through one graph computes it again. All arithmetic is in float32, also inside an autocast region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from softlabels.losses.predictions import Predictions

ELEMENTS = {"cpu": 2**20}
"""Logits per block, by type of device."""
ELEMENTS_ELSEWHERE = 2**24
"""Logits per block on other devices."""

Targets = Any
"""An object with ``rows(start, stop)`` that the rule understands."""


class Rule(Protocol):
    """Definition of a per-row loss."""

    def value_of(self, scaled: Tensor, targets: Targets) -> Tensor:
        """Return the loss of each row, (n,), of (n, C) logits over T."""

    def value_and_gradient(self, scaled: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the loss of each row and its gradient with respect to (n, C) logits over T."""


@dataclass(frozen=True)
class ClosedForm:
    """A rule with a formula for the gradient.

    Attributes:
        formula: Loss of each row and its gradient with respect to the student's logits over T, (n,) and (n, C), from
            its predictions, which may be overwritten, and targets.
    """

    formula: Callable[[Predictions, Targets], tuple[Tensor, Tensor]]

    def value_of(self, scaled: Tensor, targets: Targets) -> Tensor:
        """See Rule.value_of."""
        return self.formula(Predictions.of(scaled), targets)[0]

    def value_and_gradient(self, scaled: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """See Rule.value_and_gradient."""
        return self.formula(Predictions.of(scaled), targets)


@dataclass(frozen=True)
class Differentiated:
    """A rule whose gradient autograd computes.

    Attributes:
        value: Maps the student's log-probabilities at T, (n, C) float32, and targets to the loss of each row, (n,).
    """

    value: Callable[[Tensor, Targets], Tensor]

    def value_of(self, scaled: Tensor, targets: Targets) -> Tensor:
        """See Rule.value_of."""
        return self.value(scaled.log_softmax(dim=-1), targets)

    def value_and_gradient(self, scaled: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """See Rule.value_and_gradient."""
        with torch.enable_grad():
            leaf = scaled.detach().requires_grad_()
            value = self.value(leaf.log_softmax(dim=-1), targets)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient


def mean_of_rows(
    logits: Tensor, targets: Targets, rule: Rule, *, temperature: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """Return the mean loss of rows, a float32 scalar; 0 if no row has a weight.

    Args:
        logits: (N, C) student logits of any float dtype.
        targets: Targets of the same rows.
        rule: Definition of the loss.
        temperature: Temperature T that the logits are divided by.
        weights: (N,) float32 weights of the rows; None: all are 1.
    """
    options = targets, rule, temperature, torch.is_grad_enabled()
    mean: Tensor = _MeanOfRows.apply(logits, weights, options)  # type: ignore[no-untyped-call]
    return mean


def mean_of_linear_rows(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Targets,
    rule: Rule,
    *,
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean loss of rows of ``states @ weight.T + bias``, without holding all logits.

    Args:
        states: (N, D) inputs of the linear layer.
        weight: (C, D) weight of the layer.
        bias: (C,) bias of the layer, or None.
        targets: Targets of the same rows.
        rule: Definition of the loss.
        temperature: Temperature T that the logits are divided by.
        weights: (N,) float32 weights of the rows; None: all are 1.
    """
    options = targets, rule, temperature, torch.is_grad_enabled()
    mean: Tensor = _MeanOfLinearRows.apply(states, weight, bias, weights, options)  # type: ignore[no-untyped-call]
    return mean


def blocks(rows: int, classes: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of successive blocks of rows."""
    step = max(1, ELEMENTS.get(device.type, ELEMENTS_ELSEWHERE) // max(1, classes))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context in which operations on the tensor's device keep their dtype."""
    return torch.autocast(tensor.device.type, enabled=False)


class _MeanOfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, weights: Tensor | None, options: tuple[Any, ...]) -> Tensor:
        *_, has_gradient = options
        wants = has_gradient and ctx.needs_input_grad[0]
        with without_autocast(logits):
            losses, ctx.gradient = _over_rows(logits, weights, options, wants_gradient=wants)
            mean, ctx.total = _mean(losses, weights)
        ctx.save_for_backward(logits, weights, losses, mean)
        ctx.options = options
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, weights, losses, mean = ctx.saved_tensors
        _, _, temperature, _ = ctx.options
        gradient, ctx.gradient = ctx.gradient, None  # the receiver may change it in place
        with without_autocast(logits):
            if gradient is None and ctx.needs_input_grad[0]:
                _, gradient = _over_rows(logits, weights, ctx.options, wants_gradient=True)
            if gradient is not None:
                _scale(gradient, upstream / (ctx.total * temperature))
            return gradient, _by_weights(losses, weights, mean, upstream / ctx.total), None


class _MeanOfLinearRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor | None, options: tuple[Any, ...]
    ) -> Tensor:
        kind = states.device.type
        # Products follow autocast, as those of a linear layer would; the loss of them does not.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        wants = options[-1] and any(ctx.needs_input_grad[:3])
        with without_autocast(states):
            losses, ctx.gradients = _over_linear_rows(
                states, weight, bias, weights, (*options, dtype), wants_gradient=wants
            )
            mean, ctx.total = _mean(losses, weights)
        ctx.save_for_backward(states, weight, bias, weights, losses, mean)
        ctx.options = (*options, dtype)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, weights, losses, mean = ctx.saved_tensors
        _, _, temperature, _, _ = ctx.options
        gradients, ctx.gradients = ctx.gradients, None  # the receiver may change them in place
        with without_autocast(states):
            if gradients is None:
                _, gradients = _over_linear_rows(states, weight, bias, weights, ctx.options, wants_gradient=True)
            for gradient in gradients:
                if gradient is not None:
                    _scale(gradient, upstream / (ctx.total * temperature))
            for_states, for_weight, for_bias = gradients
            return (
                for_states,
                for_weight.to(weight.dtype),
                None if for_bias is None else for_bias.to(bias.dtype),
                _by_weights(losses, weights, mean, upstream / ctx.total),
                None,
            )


def _over_rows(
    logits: Tensor, weights: Tensor | None, options: tuple[Any, ...], *, wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the loss of each row, (N,), and its weighted gradient with respect to the logits over T."""
    targets, rule, temperature, _ = options
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    gradient = torch.empty_like(logits) if wants_gradient else None
    for start, stop in blocks(len(logits), logits.shape[1], logits.device):
        scaled, rows = _over(logits[start:stop], temperature), targets.rows(start, stop)
        if gradient is None:
            losses[start:stop] = rule.value_of(scaled, rows)
        else:
            losses[start:stop], block = rule.value_and_gradient(scaled, rows)
            gradient[start:stop] = _weighted(block, weights, start, stop)
    return losses, gradient


def _over_linear_rows(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    options: tuple[Any, ...],
    *,
    wants_gradient: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None] | None]:
    """Return the loss of each row, (N,), and weighted gradients with respect to states, weight and bias, times T."""
    targets, rule, temperature, _, dtype = options
    losses = states.new_empty(len(states), dtype=torch.float32)
    narrow_weight, narrow_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    if wants_gradient:
        for_states = torch.empty_like(states)
        for_weight = torch.zeros_like(weight, dtype=torch.float32)
        for_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
    for start, stop in blocks(len(states), len(weight), states.device):
        inputs = states[start:stop].to(dtype)
        logits = torch.nn.functional.linear(inputs, narrow_weight, narrow_bias)
        scaled, rows = _over(logits, temperature), targets.rows(start, stop)
        if not wants_gradient:
            losses[start:stop] = rule.value_of(scaled, rows)
            continue
        losses[start:stop], block = rule.value_and_gradient(scaled, rows)
        block = _weighted(block, weights, start, stop)
        if for_bias is not None:
            for_bias += block.sum(dim=0)
        narrow = block.to(dtype)
        for_states[start:stop] = narrow @ narrow_weight
        if weights is not None:  # a row that is masked out may hold NaN, and 0 times NaN is NaN
            inputs = inputs.masked_fill((weights[start:stop] == 0)[:, None], 0.0)
        for_weight += narrow.T @ inputs
    return losses, (for_states, for_weight, for_bias) if wants_gradient else None


def _mean(losses: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of losses, and the sum of the weights, 1 in place of 0."""
    if weights is None:
        return losses.mean() if len(losses) else losses.sum(), losses.new_tensor(max(1, len(losses)))
    total = weights.sum()
    total = torch.where(total > 0, total, 1.0)
    # A row that is masked out may be infinite or NaN: padding often is.
    return torch.where(weights > 0, losses * weights, 0.0).sum() / total, total


def _by_weights(losses: Tensor, weights: Tensor | None, mean: Tensor, scale: Tensor) -> Tensor | None:
    """Return the gradient of a weighted mean with respect to the weights; None for those that need none."""
    if weights is None or not weights.requires_grad:
        return None
    return (torch.where(weights > 0, losses, 0.0) - mean) * scale


def _weighted(gradient: Tensor, weights: Tensor | None, start: int, stop: int) -> Tensor:
    """Multiply a gradient by weights of its rows; a row that is masked out is 0 even if its loss is infinite."""
    if weights is None:
        return gradient
    factors = weights[start:stop, None]
    return gradient.mul_(factors).masked_fill_(factors == 0, 0.0)


def _scale(gradient: Tensor, factor: Tensor) -> None:
    """Multiply a gradient by a scalar, in place."""
    number = float(factor)
    if number == 0:
        gradient.zero_()  # even if it is infinite
    elif number != 1:
        gradient.mul_(number)


def _over(logits: Tensor, temperature: float) -> Tensor:
    """Return logits over T in float32."""
    scaled = logits.float()
    return scaled if temperature == 1 else scaled / temperature
