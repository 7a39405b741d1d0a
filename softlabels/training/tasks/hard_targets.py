"""Hard targets of a head: what the data says of each row of a batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels
from softlabels.loading import Batch
from softlabels.losses import NO_LABEL
from softlabels.models import DEFAULT_HEAD, OutputHead
from softlabels.sources.protocol import Target
from softlabels.sources.view_inputs import ViewInputs
from softlabels.training.language import is_language
from softlabels.training.run_data import Prepared
from softlabels.training.tasks.loss_spec import WeightedLoss
from softlabels.training.tasks.objective import Outputs, Term

MAX_TARGET_BYTES = 2**28
"""Bytes of a target of all rows up to which it is held in memory."""


@dataclass(frozen=True, kw_only=True)
class HardTargets:
    """Hard targets of one head.

    Attributes:
        output: The head; regression has numbers, the others have class ids.
        read: Returns the targets of some rows: class ids (n, *shape), or numbers (n, width) with NaN for none.
        used: Rows whose targets are used, a mask over all rows of the data; None: all.
        read_views: Returns the targets of views, from rows and numbers of views; None if views do not change them.
    """

    output: OutputHead
    read: Callable[[NDArray[np.int64]], NDArray[np.generic]]
    used: NDArray[np.bool_] | None = None
    read_views: Callable[[NDArray[np.int64], NDArray[np.integer]], NDArray[np.generic]] | None = None

    @property
    def is_regression(self) -> bool:
        """True if the targets are numbers."""
        return self.output.kind == "regression"

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the targets of rows; those that are not used are marked as missing.

        Args:
            rows: Row numbers, (n,).
        """
        return self._only_used(self.read(rows), rows)

    def of_batch(self, batch: Batch) -> NDArray[np.generic]:
        """Return the targets of the rows of a batch, or of their views.

        Args:
            batch: The batch.
        """
        if self.read_views is None or batch.views is None:
            return self.values(batch.rows)
        return self._only_used(self.read_views(batch.rows, batch.views), batch.rows)

    def _only_used(self, values: NDArray[np.generic], rows: NDArray[np.int64]) -> NDArray[np.generic]:
        if self.used is None or self.used[rows].all():
            return values
        values = values.copy()
        values[~self.used[rows]] = np.nan if self.is_regression else NO_LABEL
        return values

    def count(self, batch: Batch) -> float:
        """Return the number of rows or positions of a batch that have a target.

        Args:
            batch: The batch.
        """
        return float(self.present(self.of_batch(batch)).sum())

    def present(self, values: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Return which rows or positions have a target.

        Args:
            values: Targets of a batch.
        """
        return np.asarray(np.isfinite(values).all(axis=-1) if self.is_regression else values >= 0)  # type: ignore[operator]  # of any dtype


def hard_term(head: str, targets: HardTargets, loss: WeightedLoss | None, *, weight: float = 1.0) -> Term:
    """Return the loss of a head against hard targets: cross-entropy, or for regression a loss of numbers.

    Args:
        head: Name of the head.
        targets: Hard targets.
        loss: Loss of numbers; None for class ids.
        weight: Factor of the term.
    """
    if loss is None:
        return Term(
            name="cross_entropy",
            loss=lambda outputs, batch: losses.cross_entropy(outputs[head], targets.of_batch(batch)),
            count=targets.count,
            weight=weight,
        )

    def distance(outputs: Outputs, batch: Batch) -> Tensor:
        values = targets.of_batch(batch)
        present = targets.present(values)
        labels = DenseLabels(np.where(present[..., None], values, 0).astype(np.float32), "regression")
        value: Tensor = loss.loss.function(outputs[head], labels, mask=torch.from_numpy(present), **loss.options)
        return value

    return Term(name=f"{loss.loss.name} to targets", loss=distance, count=targets.count, weight=weight)


def hard_targets(
    prepared: Prepared, heads: Mapping[str, OutputHead], views: ViewInputs | None = None
) -> dict[str, HardTargets]:
    """Return the hard targets of the heads that have some among the training rows.

    Args:
        prepared: Data of the run.
        heads: Heads that are learned, by name.
        views: Views of the inputs that are trained on, which masks follow; None: inputs as they are.

    Raises:
        InvalidArgument: A target has another kind, size or shape than its head.
    """
    if is_language(prepared.source):
        return {}
    targets = {}
    for name, output in heads.items():
        column = _target_of(name, prepared, heads)
        if column is None:
            continue
        _check_target(name, output, prepared.source.targets[column], prepared.source.spec)
        moves = views is not None and (views.mixes or prepared.source.targets[column].kind == "pixels")
        hard = HardTargets(
            output=output,
            read=_reader(column, prepared),
            used=prepared.used,
            read_views=functools.partial(views.target, column) if views is not None and moves else None,
        )
        if hard.present(hard.values(prepared.train)).any():
            targets[name] = hard
    return targets


def _target_of(name: str, prepared: Prepared, heads: Mapping[str, OutputHead]) -> str | None:
    """Return the name of the target of a head: its own, or for an only head that of the hard labels."""
    targets = prepared.source.targets
    if name in targets:
        return name
    if len(heads) == 1 and heads[name].kind == "classes" and heads[name].shape == () and DEFAULT_HEAD in targets:
        return DEFAULT_HEAD
    return None


def _reader(name: str, prepared: Prepared) -> Callable[[NDArray[np.int64]], NDArray[np.generic]]:
    """Return a function from rows to targets, which are held in memory if they are small."""
    source, target = prepared.source, prepared.source.targets[name]
    width = target.classes if target.kind == "regression" else 1
    size = len(source) * max(1, math.prod(target.shape)) * width * 8
    if size > MAX_TARGET_BYTES:
        return lambda rows: source.target(name, rows)
    values = source.target(name, np.arange(len(source), dtype=np.int64))
    return lambda rows: values[rows]


def _check_target(name: str, output: OutputHead, target: Target, spec: str) -> None:
    is_same_kind = target.kind == output.kind and tuple(target.shape) == tuple(output.shape)
    fits = target.classes == output.classes if target.kind == "regression" else target.classes <= output.classes
    if target.kind == output.kind == "pixels" and fits and target.shape != output.shape:
        height, width = output.shape
        size = f"Open the data at that size, with size={height}" if height == width else "Use images of that size"
        if spec.startswith("roads:") and height != width:
            size = f"Name that size, as in data='{spec.partition(',')[0]},size={height}x{width}'"
        raise InvalidArgument(
            f"{spec}: the masks of head {name!r} have another size than the labels, got {target.shape}; expected "
            f"{output.shape}. {size}"
        )
    if not is_same_kind or (target.kind != "classes" and not fits):
        raise InvalidArgument(
            f"{spec}: the target of head {name!r} does not fit, got {target.kind} of {target.classes} classes and "
            f"shape {target.shape}; expected {output.kind} of {output.classes} and {output.shape}. Name another column "
            f"with targets={{{name!r}: COLUMN}}"
        )
    if not fits:
        raise InvalidArgument(
            f"{spec}: more classes than the soft labels have, got {target.classes}; expected at most "
            f"{output.classes}. The labels are of another task, or label= names another column"
        )
