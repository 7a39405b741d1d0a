"""Figures of a model on rows: loss, KL to the labels, agreement with them, accuracy and error, by head.

Figures are means that are computed from sums, so the shares of several processes and batches add up.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabels import losses
from softlabels.labels import DISTRIBUTIONS, DenseLabels, SoftLabels, SparseLabels
from softlabels.loading import Batch
from softlabels.losses.pooling import pool_like
from softlabels.training.tasks import Objectives, Outputs, Task

NAMES = ("kl", "agreement", "accuracy", "error")
"""Figures of a head: KL of the labels from the model in nats, share of rows or positions with the likeliest class of
the labels, share with the hard label, and mean absolute difference from the target of a regression."""


class FigureSums:
    """Sums of figures over batches.

    Args:
        task: Heads and labels of the run.
        objectives: Losses of the run; None: the loss is not measured.
        with_soft: If False, the batches hold no soft labels.
    """

    def __init__(self, task: Task, objectives: Objectives | None, *, with_soft: bool = True) -> None:
        self._task = task
        self._objectives = objectives
        self._soft = task.soft if with_soft else {}
        terms = 0 if objectives is None else len(objectives)
        self._terms = np.zeros((2, terms))
        self._sums = np.zeros((len(task.heads), len(NAMES), 2))

    @torch.no_grad()
    def add(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch.

        Args:
            outputs: Outputs by head.
            batch: The batch.
        """
        if len(batch) == 0:
            return
        if self._objectives is not None:
            counts = self._objectives.counts(batch)
            self._terms += [self._objectives.values(outputs, batch) * counts, counts]
        mask = None if self._task.mask is None else self._task.mask(batch)
        for index, (name, head) in enumerate(self._task.heads.items()):
            output = outputs.get(name)
            if output is None:
                continue
            sums = self._sums[index]
            if name in self._soft and head.kind in DISTRIBUTIONS:
                sums[:2] += self._compared(output, self._soft[name](batch), name, mask)
            if name in self._task.hard:
                target = self._task.hard[name]
                values = target.of_batch(batch)
                present = target.present(values)
                predicted = output.float().cpu().numpy()
                if target.is_regression:
                    difference = np.abs(predicted[present] - values[present]).mean(axis=-1)
                    sums[3] += [difference.sum(), present.sum()]
                else:
                    sums[2] += [(predicted.argmax(axis=-1) == values)[present].sum(), present.sum()]

    def totals(self) -> NDArray[np.float64]:
        """Return the sums, to be added to those of other processes."""
        return np.concatenate([self._terms.ravel(), self._sums.ravel()])

    def figures(self, totals: NDArray[np.float64] | None = None) -> dict[str, float]:
        """Return the figures that were measured: ``loss``, and those of each head as ``kl`` or ``HEAD.kl``.

        Args:
            totals: Sums over all processes; None: those of this one.
        """
        totals = self.totals() if totals is None else totals
        terms = totals[: self._terms.size].reshape(self._terms.shape)
        sums = totals[self._terms.size :].reshape(self._sums.shape)
        figures: dict[str, float] = {}
        if self._objectives is not None and terms[1].any():
            means = np.divide(terms[0], terms[1], out=np.zeros_like(terms[0]), where=terms[1] > 0)
            figures["loss"] = float(means @ self._objectives.weights)
        for index, name in enumerate(self._task.heads):
            prefix = "" if len(self._task.heads) == 1 else f"{name}."
            for figure, (total, count) in zip(NAMES, sums[index], strict=True):
                if count > 0:
                    figures[prefix + figure] = float(total / count)
        return {name: value for name, value in figures.items() if np.isfinite(value)}

    def _compared(self, output: Tensor, labels: SoftLabels, name: str, mask: Tensor | None) -> NDArray[np.float64]:
        """Return the sums of KL and agreement, (2, 2); zeros for samples, which do not tell them."""
        if isinstance(labels, SparseLabels) and labels.is_sample:
            return np.zeros((2, 2))
        logits = pool_like(output, labels).flatten(0, -2)
        temperature = self._task.temperatures.get(name, 1.0)
        divergence = losses.kl(logits, labels, temperature=temperature, mask=mask, scale_by_temperature=False)
        agreeing = likeliest(labels).to(logits.device) == logits.argmax(dim=-1)
        counted = torch.ones_like(agreeing) if mask is None else mask.to(agreeing.device)
        count = float(counted.sum())
        return np.array([[float(divergence) * count, count], [float((agreeing & counted).sum()), count]])


def likeliest(labels: SoftLabels) -> Tensor:
    """Return the likeliest class of each row or position, (N,).

    Args:
        labels: Soft labels of N rows or positions, as arrays or tensors.
    """
    values = torch.as_tensor(labels.values)
    if isinstance(labels, DenseLabels):
        return values.flatten(0, -2).argmax(dim=-1)
    return torch.as_tensor(labels.ids).long().gather(1, values.argmax(dim=-1, keepdim=True))[:, 0]
