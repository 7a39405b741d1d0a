"""Differences between a model and its export on real rows, and their tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabels.errors import ExportRejected
from softlabels.labels import DISTRIBUTIONS
from softlabels.models import Model
from softlabels.sources import Source

BATCH_ROWS = 32
"""Rows that are run at a time."""


@dataclass(frozen=True, kw_only=True)
class HeadDifference:
    """Difference between a model and its export in one head, on the checked rows.

    Attributes:
        max_difference: Greatest absolute difference of a value.
        relative: Root mean square of the differences, divided by the standard deviation of the model's values.
        kl: Mean KL divergence of the model from its export in nats; None unless the values are logits.
        agreement: Share of rows, or of pixels, with the same likeliest class; None unless the values are logits.
    """

    max_difference: float
    relative: float
    kl: float | None = None
    agreement: float | None = None

    @property
    def measure(self) -> float:
        """The figure that the tolerance is for: the KL divergence, or else the relative difference."""
        return self.relative if self.kl is None else self.kl


def compare_outputs(
    original: Model, exported: Model, source: Source, rows: NDArray[np.int64]
) -> dict[str, HeadDifference]:
    """Return the differences between a model and its export, by head.

    Args:
        original: The model.
        exported: Its export, with the same heads.
        source: The data.
        rows: Row numbers, (n,).
    """
    outputs: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in original.heads}
    for start in range(0, len(rows), BATCH_ROWS):
        inputs = source.inputs(rows[start : start + BATCH_ROWS])
        first, second = original.predict(inputs), exported.predict(inputs)
        for name, pairs in outputs.items():
            pairs.append((first[name].double().flatten(0, -2), second[name].double().flatten(0, -2)))
    return {
        name: _difference(
            torch.cat([pair[0] for pair in pairs]),
            torch.cat([pair[1] for pair in pairs]),
            is_distribution=original.heads[name].kind in DISTRIBUTIONS,
        )
        for name, pairs in outputs.items()
    }


def check_differences(model: Model, differences: Mapping[str, HeadDifference], tolerance: float, rows: int) -> None:
    """Raise ExportRejected if a head differs by more than the tolerance, or is not a number.

    Args:
        model: The model.
        differences: Difference by head.
        tolerance: Greatest difference to allow; see ``export_model``.
        rows: Number of rows that were compared.

    Raises:
        ExportRejected: A head differs too much; names it.
    """
    for name, difference in differences.items():
        if not difference.measure <= tolerance:
            measure = "relative difference" if difference.kl is None else "KL"
            raise ExportRejected(
                f"{model.spec}: the export differs from the model in head {name!r}, got a {measure} of "
                f"{difference.measure:.3g} and differences up to {difference.max_difference:.3g} on {rows} rows; "
                f"expected at most {tolerance:g}. Nothing was written. Calibrate on more rows (rows=), leave out "
                "int8=, or allow more with tolerance="
            )


def _difference(first: Tensor, second: Tensor, *, is_distribution: bool) -> HeadDifference:
    gaps = first - second
    spread = float(first.std(unbiased=False)) or 1.0
    figures = {"max_difference": float(gaps.abs().max()), "relative": float(gaps.square().mean().sqrt()) / spread}
    if not is_distribution:
        return HeadDifference(**figures)
    log_probs = first.log_softmax(-1)
    kl = (log_probs.exp() * (log_probs - second.log_softmax(-1))).sum(-1).mean()
    agreement = (first.argmax(-1) == second.argmax(-1)).double().mean()
    return HeadDifference(**figures, kl=max(float(kl), 0.0), agreement=float(agreement))
