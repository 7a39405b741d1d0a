"""DIST: distillation by correlation (Huang, You, Wang, Qian, Xu 2022, arXiv 2205.10536).

Inter-class: each row's student probabilities should correlate with the teacher's. Intra-class: so should each class's
probabilities over the batch, which needs every row at once. Two passes over pieces of rows, first for sums over the
batch, then for gradients, keep memory at O(N K + C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from softlabels.errors import InvalidArgument
from softlabels.labels import SoftLabels, SparseLabels
from softlabels.losses.matching import Mask, match, refuse_samples, weights_of
from softlabels.losses.pieces import pieces
from softlabels.losses.targets import Targets

TINY = 1e-30


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
    """DIST: inter * (1 - Pearson over classes, mean of rows) + intra * (1 - Pearson over rows, mean of classes).

    A correlation with something constant counts as 0.

    Args:
        student_logits: (..., C).
        labels: of the same rows.
        temperature: of both softmaxes; for sparse labels one of ``labels.temperatures``.
        inter: the paper's beta.
        intra: the paper's gamma.
        mask: N booleans; the others take no part.
        scale_by_temperature: multiply by T^2.

    Raises:
        InvalidArgument: as kl; also for unbiased labels and for a bucket, which hold no probability of each class.
    """
    refuse_samples("DIST", labels)
    if isinstance(labels, SparseLabels) and labels.tail == "bucket":
        raise InvalidArgument(
            "DIST needs a probability of each class; the bucket has none: use tail calibrated or uniform"
        )
    logits, targets = match(student_logits, labels, temperature)
    weights = (weights_of(mask, logits[:, 0]) > 0).float()
    loss: Tensor = _Correlation.apply(logits, targets, weights, (temperature, inter, intra))  # type: ignore[no-untyped-call]
    return loss * temperature**2 if scale_by_temperature else loss


@dataclass
class _Columns:
    """Sums over the batch, (C,) float64 each: of p, of q, and of the products of their deviations."""

    count: Tensor
    mean_p: Tensor
    mean_q: Tensor
    pp: Tensor
    qq: Tensor
    pq: Tensor


class _Correlation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Targets, weights: Tensor, options: tuple[float, float, float]
    ) -> Tensor:
        temperature, inter, intra = options
        columns = _columns(logits, targets, weights, temperature)
        by_rows = logits.new_zeros((), dtype=torch.float64)
        for q, p, kept in _pieces(logits, targets, weights, temperature):
            by_rows += (_row_correlation(q, p)[0] * kept).sum()
        by_classes = columns.pq / (columns.pp * columns.qq).sqrt().clamp_min(TINY)
        ctx.save_for_backward(logits, weights)
        ctx.told = targets, options, columns, by_classes
        loss = inter * (1 - by_rows / columns.count.clamp_min(1)) + intra * (1 - by_classes.mean())
        return torch.where(columns.count > 0, loss, 0.0).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, weights = ctx.saved_tensors
        targets, (temperature, inter, intra), columns, by_classes = ctx.told
        gradient = torch.empty_like(logits)
        start = 0
        for q, p, kept in _pieces(logits, targets, weights, temperature):
            by_row, deviation_q, deviation_p, norm_q, norm_p = _row_correlation(q, p)
            along_rows = _slope(deviation_q, deviation_p, by_row[:, None], norm_q, norm_p) / columns.count.clamp_min(1)
            along_columns = _slope(
                q - columns.mean_q, p - columns.mean_p, by_classes, columns.qq.sqrt(), columns.pp.sqrt()
            ) / len(by_classes)
            slope = -(inter * along_rows + intra * along_columns) * kept[:, None]
            piece = q * (slope - (q * slope).sum(dim=-1, keepdim=True))
            gradient[start : start + len(q)] = piece * (upstream / temperature)
            start += len(q)
        return gradient, None, None, None


def _pieces(logits: Tensor, targets: Targets, weights: Tensor, temperature: float) -> Any:
    """Student and teacher probabilities of pieces of rows, float64, and which rows take part."""
    for start, stop in pieces(len(logits), logits.shape[1], logits.device):
        # A row that takes no part may hold anything, and 0 times NaN is NaN.
        taking_part = logits[start:stop].double().masked_fill_((weights[start:stop] == 0)[:, None], 0.0)
        q = (taking_part / temperature).softmax(dim=-1)
        yield q, targets.rows(start, stop).log_probs().double().exp(), weights[start:stop]


def _columns(logits: Tensor, targets: Targets, weights: Tensor, temperature: float) -> _Columns:
    """Means first, then products of deviations: sums of squares would cancel."""
    classes = logits.shape[1]
    count = weights.sum().double()
    zero = torch.zeros(classes, dtype=torch.float64, device=logits.device)
    found = _Columns(count, *(zero.clone() for _ in range(5)))
    for q, p, kept in _pieces(logits, targets, weights, temperature):
        found.mean_q += kept.double() @ q / count.clamp_min(1)
        found.mean_p += kept.double() @ p / count.clamp_min(1)
    for q, p, kept in _pieces(logits, targets, weights, temperature):
        deviation_q, deviation_p = (q - found.mean_q) * kept[:, None], (p - found.mean_p) * kept[:, None]
        found.qq += (deviation_q**2).sum(dim=0)
        found.pp += (deviation_p**2).sum(dim=0)
        found.pq += (deviation_q * deviation_p).sum(dim=0)
    return found


def _row_correlation(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pearson of each row, the deviations from the rows' means, and their norms, (n, 1)."""
    deviation_q, deviation_p = q - q.mean(dim=-1, keepdim=True), p - p.mean(dim=-1, keepdim=True)
    norm_q, norm_p = deviation_q.norm(dim=-1, keepdim=True), deviation_p.norm(dim=-1, keepdim=True)
    correlation = (deviation_q * deviation_p).sum(dim=-1) / (norm_q * norm_p).clamp_min(TINY)[:, 0]
    return correlation, deviation_q, deviation_p, norm_q, norm_p


def _slope(deviation_q: Tensor, deviation_p: Tensor, correlation: Tensor, norm_q: Tensor, norm_p: Tensor) -> Tensor:
    """Derivative of a Pearson correlation with respect to q."""
    return deviation_p / (norm_p * norm_q).clamp_min(TINY) - correlation * deviation_q / (norm_q**2).clamp_min(TINY)
