"""Quality of one head of a model, from sums over batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabels.labels import DISTRIBUTIONS, HeadKind
from softlabels.models import OutputHead

MAX_CONFUSED = 4096
"""Classes up to which F1 and the intersection over union are computed: their counts are a table of classes."""
MAX_NEIGHBOURS = 4096
"""Rows that are searched for nearest neighbours: the first ones."""
TOP = 5

METRICS = {
    "accuracy": "accuracy", "mean_iou": "mean IoU", "error": "mean absolute error", "cosine": "cosine",
    "agreement": "agreement", "distance": "distance", "retrieval": "retrieval",
}  # fmt: skip
"""Names of measures as tables show them."""
ERRORS = ("error", "distance")
"""Measures of which less is better."""


@dataclass(frozen=True, kw_only=True)
class HeadQuality:
    """Quality of one head of a model.

    Attributes:
        kind: Kind of the head.
        metric: Measure in ``value``: accuracy, mean IoU, mean absolute error, cosine, agreement or distance.
        value: Its value; the mean over runs.
        unit: Unit of an error; None for other measures.
        spread: Standard deviation over runs; None for one run.
        retention: Value divided by that of the first model, for errors the inverse; None if the divisor is 0.
        accuracy: Share of rows, or of pixels, whose likeliest class is right.
        top5: Share whose right class is among the five likeliest; None up to five classes.
        f1: Mean over the classes that occur of the harmonic mean of precision and recall.
        mean_iou: Mean over the classes that occur of intersection over union, of all pixels together.
        error: Mean absolute error.
        rmse: Root of the mean squared error.
        kl: Mean KL divergence of the first model from this one in nats, per row or pixel.
        agreement: Share whose likeliest class is that of the first model.
        distance: Mean absolute difference to the first model.
        cosine: Mean cosine to the embeddings of the first model; None if they have another width.
        retrieval: Share of rows whose nearest other row is the same as with the embeddings of the first model.
        labelled: Number of rows with ground truth.
    """

    kind: HeadKind
    metric: str
    value: float
    unit: str | None = None
    spread: float | None = None
    retention: float | None = None
    accuracy: float | None = None
    top5: float | None = None
    f1: float | None = None
    mean_iou: float | None = None
    error: float | None = None
    rmse: float | None = None
    kl: float | None = None
    agreement: float | None = None
    distance: float | None = None
    cosine: float | None = None
    retrieval: float | None = None
    labelled: int = 0


@dataclass
class Tally:
    """Sums of one head of one model over batches.

    Attributes:
        head: The head.
        target: Name of its ground truth in the data; None without any.
        reference_name: Name of the head of the reference that it is compared with; empty if there is none.
        unit: Unit of the ground truth.
    """

    head: OutputHead
    target: str | None
    reference_name: str
    unit: str | None = None
    labelled: int = 0
    items: int = 0
    compared: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    confusion: NDArray[np.int64] | None = None
    embeddings: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, output: Tensor, truth: NDArray[Any] | None, reference: Tensor | None) -> None:
        """Add a batch.

        Args:
            output: (B, *shape, C).
            truth: Ground truth of the rows; None without any.
            reference: Output of the reference for the same rows; None without one.
        """
        if self.head.kind in DISTRIBUTIONS:
            self._add_classes(output, truth, reference)
        elif self.head.kind == "regression":
            self._add_numbers(output, truth, reference)
        elif reference is not None:
            self._add_embeddings(output, reference)

    def _sum(self, **values: Any) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def _add_classes(self, output: Tensor, truth: NDArray[Any] | None, reference: Tensor | None) -> None:
        classes = self.head.classes
        if truth is not None and self.head.kind == "pixels":
            output = _resized(output, truth.shape[1:])
        if reference is not None and self.head.kind == "pixels":
            reference = _resized(reference, tuple(output.shape[1:-1]))
        logits = output.reshape(-1, classes).float()
        predicted = logits.argmax(-1)
        if reference is not None and reference.shape == output.shape:
            first = reference.reshape(-1, classes).float()
            log_probs = torch.log_softmax(first, -1)
            gaps = torch.where(log_probs.isneginf(), 0.0, log_probs - torch.log_softmax(logits, -1))
            self._sum(kl=(log_probs.exp() * gaps).sum(), agreement=(predicted == first.argmax(-1)).sum())
            self.compared += len(logits)
        if truth is None:
            return
        labels = torch.from_numpy(np.ascontiguousarray(truth.reshape(-1)).astype(np.int64))
        known = labels >= 0
        labels, chosen = labels[known], predicted[known]
        self._sum(right=(chosen == labels).sum())
        if classes > TOP:
            top = logits[known].topk(TOP, dim=-1).indices
            self._sum(top5=(top == labels[:, None]).any(-1).sum())
        if classes <= MAX_CONFUSED:
            counts = torch.bincount(labels * classes + chosen, minlength=classes**2).reshape(classes, classes).numpy()
            self.confusion = counts if self.confusion is None else self.confusion + counts
        self.items += len(labels)
        self.labelled += int((truth.reshape(len(truth), -1) >= 0).any(axis=1).sum())

    def _add_numbers(self, output: Tensor, truth: NDArray[Any] | None, reference: Tensor | None) -> None:
        values = output.double().numpy()
        if reference is not None and reference.shape == output.shape:
            self._sum(distance=np.abs(values - reference.double().numpy()).sum())
            self.compared += values.size
        if truth is not None:
            expected = truth.reshape(values.shape).astype(np.float64)
            known = ~np.isnan(expected)
            differences = values[known] - expected[known]
            self._sum(error=np.abs(differences).sum(), squared=(differences**2).sum())
            self.items += differences.size
            self.labelled += int(known.reshape(len(known), -1).any(axis=1).sum())

    def _add_embeddings(self, output: Tensor, reference: Tensor) -> None:
        own = torch.nn.functional.normalize(output.flatten(1).float(), dim=-1)
        first = torch.nn.functional.normalize(reference.flatten(1).float(), dim=-1)
        if own.shape == first.shape:
            self._sum(cosine=(own * first).sum())
        self.compared += len(own)
        if sum(len(rows) for rows, _ in self.embeddings) < MAX_NEIGHBOURS:
            self.embeddings.append((own, first))

    def quality(self) -> HeadQuality | None:
        """Return the quality; None if nothing was measured."""
        figures = self._figures()
        order = {
            "classes": ("accuracy", "agreement"),
            "tokens": ("accuracy", "agreement"),
            "pixels": ("mean_iou", "agreement"),
            "regression": ("error", "distance"),
            "embedding": ("cosine", "retrieval"),
        }[self.head.kind]
        metric = next((name for name in order if figures.get(name) is not None), None)
        if metric is None:
            return None
        return HeadQuality(
            kind=self.head.kind,
            metric=METRICS[metric],
            value=float(figures[metric] or 0.0),
            unit=self.unit if metric in ERRORS else None,
            labelled=self.labelled,
            **figures,
        )

    def _figures(self) -> dict[str, float | None]:
        """Return the means by name; None for what was not measured."""
        is_confused = self.confusion is not None and self.items > 0
        kind = self.head.kind
        return {
            "accuracy": self._mean("right", self.items),
            "top5": self._mean("top5", self.items),
            "f1": _mean_f1(self.confusion) if is_confused and kind == "classes" else None,
            "mean_iou": _mean_iou(self.confusion) if is_confused and kind == "pixels" else None,
            "error": self._mean("error", self.items),
            "rmse": None
            if not self.items or "squared" not in self.sums
            else math.sqrt(self.sums["squared"] / self.items),
            "kl": self._mean("kl", self.compared),
            "agreement": self._mean("agreement", self.compared),
            "distance": self._mean("distance", self.compared),
            "cosine": self._mean("cosine", self.compared),
            "retrieval": retrieval(self.embeddings),
        }

    def _mean(self, name: str, count: int) -> float | None:
        return self.sums[name] / count if count and name in self.sums else None


def _resized(output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return logits of pixels, (B, H, W, C), at another resolution."""
    if tuple(output.shape[1:-1]) == shape:
        return output
    planes = output.float().permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(planes, size=shape, mode="bilinear").permute(0, 2, 3, 1)


def _mean_f1(confusion: NDArray[np.int64] | None) -> float | None:
    """Return the mean F1 over the classes that occur."""
    if confusion is None:
        return None
    right, actual, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    occurs = actual > 0
    return float((2 * right[occurs] / (actual + predicted)[occurs]).mean())


def _mean_iou(confusion: NDArray[np.int64] | None) -> float | None:
    """Return the mean intersection over union over the classes that occur."""
    if confusion is None:
        return None
    right, union = np.diag(confusion), confusion.sum(1) + confusion.sum(0) - np.diag(confusion)
    occurs = confusion.sum(1) > 0
    return float((right[occurs] / union[occurs]).mean())


def retrieval(embeddings: Sequence[tuple[Tensor, Tensor]]) -> float | None:
    """Return the share of rows whose nearest other row is the same in both spaces; None for fewer than three rows.

    Args:
        embeddings: Batches of unit vectors of the same rows in both spaces, (B, D) each; the widths may differ.
    """
    if not embeddings:
        return None
    neighbours = []
    for side in (0, 1):
        vectors = torch.cat([pair[side] for pair in embeddings])[:MAX_NEIGHBOURS]
        if len(vectors) < 3:
            return None
        similarity = vectors @ vectors.T
        neighbours.append(similarity.fill_diagonal_(-torch.inf).argmax(-1))
    return float((neighbours[0] == neighbours[1]).double().mean())
