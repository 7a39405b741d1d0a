"""DIST: distillation by correlation (Huang, You, Wang, Qian, Xu 2022, arXiv 2205.10536).

Inter-class: the student's probabilities of each row should correlate with the teacher's. Intra-class: so should each
class's probabilities over the batch, which needs every row at once. Two passes over blocks of rows, the first for sums
over the batch and the second for gradients, keep memory at O(N K + C). All arithmetic is in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from softlabels.labels import SoftLabels
from softlabels.losses.blocks import blocks, without_autocast
from softlabels.losses.matching import Mask, match, require_classes, scaled, weights_of
from softlabels.losses.registry import loss
from softlabels.losses.targets import Targets

TINY = 1e-30
"""Least norm that is divided by; the correlation with a constant is 0."""


@loss()
def dist(
    student_logits: Tensor,
    labels: SoftLabels,
    *,
    temperature: float = 1.0,
    inter: float = 1.0,
    intra: float = 1.0,
    mask: Mask = None,
    scale_by_temperature: bool = True,
) -> Tensor:
    """Return inter * (1 - mean Pearson correlation of rows) + intra * (1 - mean Pearson correlation of classes).

    A correlation with a constant counts as 0. A class that teacher and student both rule out in a row is left out of
    that row, and a class that is left out of every row is left out of the mean over classes.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> logits = np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]], np.float32)
        >>> round(abs(losses.dist(torch.from_numpy(logits), DenseLabels(logits), intra=0.0).item()), 6)
        0.0

    Args:
        student_logits: (..., C) logits of any float dtype.
        labels: Labels of the same rows.
        temperature: Temperature of both softmaxes; for sparse labels one of ``labels.temperatures``.
        inter: Weight of the correlations of rows, beta in the paper.
        intra: Weight of the correlations of classes, gamma in the paper.
        mask: N booleans; rows that are False, or have weight 0, take no part.
        scale_by_temperature: Multiply by T^2.

    Raises:
        InvalidArgument: As ``kl``; also for unbiased labels and for a bucket, which hold no probability of each class.
        TemperatureNotStored: As ``kl``.
    """
    require_classes("DIST", labels)
    logits, targets = match(student_logits, labels, temperature)
    is_used = weights_of(mask, logits.detach()[:, 0]) > 0
    value: Tensor = _Correlation.apply(logits, targets, is_used, (float(temperature), inter, intra))  # type: ignore[no-untyped-call]
    return scaled(value, temperature, scale_by_temperature=scale_by_temperature)


class _Block(NamedTuple):
    """Probabilities of a block of rows; both are 0 where an entry takes no part.

    Attributes:
        q: (n, C) float64, the student's.
        p: (n, C) float64, the teacher's.
        is_used: (n, C) bool, the entries that take part.
    """

    q: Tensor
    p: Tensor
    is_used: Tensor


@dataclass
class _Columns:
    """Sums over the batch by class, (C,) float64 each.

    Attributes:
        count: Rows that take part.
        mean_p: Mean of p.
        mean_q: Mean of q.
        pp: Sum of squared deviations of p.
        qq: Sum of squared deviations of q.
        pq: Sum of products of both deviations.
    """

    count: Tensor
    mean_p: Tensor
    mean_q: Tensor
    pp: Tensor
    qq: Tensor
    pq: Tensor

    def deviations(self, block: _Block) -> tuple[Tensor, Tensor]:
        """Return the deviations of q and p from the means of their class, (n, C)."""
        return (block.q - self.mean_q) * block.is_used, (block.p - self.mean_p) * block.is_used

    def correlations(self) -> Tensor:
        """Return the Pearson correlation of each class."""
        return self.pq / (self.pp * self.qq).sqrt().clamp_min(TINY)


class _Correlation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Targets, is_used: Tensor, options: tuple[float, float, float]
    ) -> Tensor:
        temperature, inter, intra = options
        with without_autocast(logits):
            columns = _columns(logits, targets, is_used, temperature)
            rows = is_used.sum().clamp_min(1)
            classes = (columns.count > 0).sum().clamp_min(1)
            by_rows = sum(_Rows.of(block).correlation.sum() for block in _blocks(logits, targets, is_used, temperature))
            value = inter * (1 - by_rows / rows) + intra * (1 - columns.correlations().sum() / classes)
        ctx.save_for_backward(logits, is_used)
        ctx.arguments = targets, options, columns
        return torch.where(is_used.any(), value, 0.0).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, is_used = ctx.saved_tensors
        targets, (temperature, inter, intra), columns = ctx.arguments
        gradient = torch.empty_like(logits)
        start = 0
        with without_autocast(logits):
            rows, classes = is_used.sum().clamp_min(1), (columns.count > 0).sum().clamp_min(1)
            correlations, norm_q, norm_p = columns.correlations(), columns.qq.sqrt(), columns.pp.sqrt()
            for block in _blocks(logits, targets, is_used, temperature):
                along_rows = _Rows.of(block).slope() / rows
                deviation_q, deviation_p = columns.deviations(block)
                along_classes = _slope(deviation_q, deviation_p, correlations, norm_q, norm_p) / classes
                slope = -(inter * along_rows + intra * along_classes)
                by_logits = block.q * (slope - (block.q * slope).sum(dim=-1, keepdim=True))
                gradient[start : start + len(block.q)] = by_logits * (upstream / temperature)
                start += len(block.q)
        return gradient, None, None, None


class _Rows(NamedTuple):
    """Correlation of each row of a block, with its parts.

    Attributes:
        correlation: (n, 1); 0 for a row that takes no part.
        deviation_q: (n, C) deviations of q from the row's mean.
        deviation_p: (n, C) deviations of p.
        norm_q: (n, 1) norm of the deviations of q.
        norm_p: (n, 1) norm of the deviations of p.
    """

    correlation: Tensor
    deviation_q: Tensor
    deviation_p: Tensor
    norm_q: Tensor
    norm_p: Tensor

    @staticmethod
    def of(block: _Block) -> _Rows:
        """Compute them for a block."""
        count = block.is_used.sum(dim=-1, keepdim=True).clamp_min(1)
        deviation_q = (block.q - block.q.sum(dim=-1, keepdim=True) / count) * block.is_used
        deviation_p = (block.p - block.p.sum(dim=-1, keepdim=True) / count) * block.is_used
        norm_q, norm_p = deviation_q.norm(dim=-1, keepdim=True), deviation_p.norm(dim=-1, keepdim=True)
        product = (deviation_q * deviation_p).sum(dim=-1, keepdim=True)
        return _Rows(product / (norm_q * norm_p).clamp_min(TINY), deviation_q, deviation_p, norm_q, norm_p)

    def slope(self) -> Tensor:
        """Return the derivative of the correlations with respect to q, (n, C)."""
        return _slope(self.deviation_q, self.deviation_p, self.correlation, self.norm_q, self.norm_p)


def _blocks(logits: Tensor, targets: Targets, is_used: Tensor, temperature: float) -> Iterator[_Block]:
    """Yield the probabilities of blocks of rows."""
    for start, stop in blocks(len(logits), logits.shape[1], logits.device):
        # A row that takes no part may hold anything, and 0 times NaN is NaN.
        is_out = ~is_used[start:stop, None]
        log_q = (logits[start:stop].double().masked_fill(is_out, 0.0) / temperature).log_softmax(dim=-1)
        log_p = targets.rows(start, stop).log_probs(log_q.float()).masked_fill(is_out, -torch.inf)
        is_out = is_out | (log_p.isneginf() & log_q.isneginf())
        yield _Block(log_q.exp().masked_fill(is_out, 0.0), log_p.double().exp(), ~is_out)


def _columns(logits: Tensor, targets: Targets, is_used: Tensor, temperature: float) -> _Columns:
    """Return the sums over the batch: means first, then deviations from them, since sums of squares would cancel."""
    zero = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
    columns = _Columns(*(zero.clone() for _ in range(6)))
    for block in _blocks(logits, targets, is_used, temperature):
        columns.count += block.is_used.sum(dim=0)
        columns.mean_q += block.q.sum(dim=0)
        columns.mean_p += block.p.sum(dim=0)
    columns.mean_q /= columns.count.clamp_min(1)
    columns.mean_p /= columns.count.clamp_min(1)
    for block in _blocks(logits, targets, is_used, temperature):
        deviation_q, deviation_p = columns.deviations(block)
        columns.qq += (deviation_q**2).sum(dim=0)
        columns.pp += (deviation_p**2).sum(dim=0)
        columns.pq += (deviation_q * deviation_p).sum(dim=0)
    return columns


def _slope(deviation_q: Tensor, deviation_p: Tensor, correlation: Tensor, norm_q: Tensor, norm_p: Tensor) -> Tensor:
    """Return the derivative of a Pearson correlation with respect to q."""
    return deviation_p / (norm_p * norm_q).clamp_min(TINY) - correlation * deviation_q / (norm_q**2).clamp_min(TINY)
