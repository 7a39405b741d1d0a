"""Terms of soft labels, and the choice of losses for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels, HeadKind, SoftLabels, SparseLabels
from softlabels.loading import Batch
from softlabels.losses.pooling import pool_like
from softlabels.models import Model, OutputHead
from softlabels.training.tasks.hard_targets import HardTargets
from softlabels.training.tasks.loss_spec import LossSpec, WeightedLoss
from softlabels.training.tasks.objective import Outputs, Term

SoftTargets: TypeAlias = Callable[[Batch], SoftLabels]
"""Returns the soft labels of a batch."""

DEFAULT_LOSSES: dict[HeadKind, str] = {
    "classes": "kl",
    "tokens": "kl",
    "pixels": "kl",
    "regression": "mse",
    "embedding": "cosine",
}
"""Loss of each kind of head if the recipe names none."""


@dataclass
class LivePredictions:
    """Labels that a live teacher predicts, once for each batch.

    Attributes:
        teacher: The teacher.
    """

    teacher: Model
    _last: tuple[Batch | None, Mapping[str, DenseLabels]] = field(default=(None, {}), repr=False)

    def labels(self, head: str, batch: Batch) -> DenseLabels:
        """Return the labels of a head for a batch.

        Args:
            head: Name of the head.
            batch: Batch with inputs.

        Raises:
            InvalidArgument: The batch has no inputs.
        """
        if self._last[0] is not batch:
            self._last = (batch, self._predict(batch))
        return self._last[1][head]

    def _predict(self, batch: Batch) -> dict[str, DenseLabels]:
        if batch.inputs is None:
            raise InvalidArgument("live teacher: the batch has no inputs, got labels alone; expected data")
        outputs = self.teacher.predict(batch.inputs)
        return {
            name: DenseLabels(output.float().cpu().numpy(), self.teacher.heads[name].kind)
            for name, output in outputs.items()
        }


def soft_term(
    head: str,
    loss: WeightedLoss,
    labels: SoftTargets,
    *,
    temperature: float,
    hard: HardTargets | None = None,
    weight: float = 1.0,
) -> Term:
    """Return a loss of a head against soft labels.

    Args:
        head: Name of the head.
        loss: The loss.
        labels: Returns the soft labels of a batch.
        temperature: Temperature of losses that have one.
        hard: Hard targets for losses that take them too.
        weight: Factor of the term, beside that of the loss.
    """
    options = loss.arguments(temperature)

    def value(outputs: Outputs, batch: Batch) -> Tensor:
        more = (hard.of_batch(batch),) if loss.loss.hard and hard is not None else ()
        target = labels(batch)
        result: Tensor = loss.loss.function(pool_like(outputs[head], target), target, *more, **options)
        return result

    return Term(
        name=name_of(loss, temperature),
        loss=value,
        count=lambda batch: float(count_positions(labels(batch))),
        weight=weight * loss.weight,
        is_soft=True,
    )


def name_of(loss: WeightedLoss, temperature: float) -> str:
    """Return the text of a loss: ``kl at T = 4``.

    Args:
        loss: The loss.
        temperature: Temperature of losses that have one.
    """
    text = loss.loss.name + "".join(f" {name}={value:g}" for name, value in loss.options.items())
    return f"{text} at T = {temperature:g}" if loss.loss.temperature else text


def count_positions(labels: SoftLabels) -> int:
    """Return the number of rows, or positions of ragged rows, that labels are for.

    Args:
        labels: Soft labels of a batch.
    """
    return len(labels.values if labels.lengths is not None else labels)


def choose_loss(
    text: str | None, head: str, output: OutputHead, sample: SoftLabels, available: Collection[str] = ()
) -> LossSpec:
    """Return the losses of a head, after they were computed for one row.

    Args:
        text: Losses by name; None: the default of the kind.
        head: Name of the head.
        output: The head.
        sample: Soft labels of one row.
        available: Heads of the labels, for losses that take those of another head.

    Raises:
        InvalidArgument: A loss is unknown, or not possible from these labels; lists those that are.
    """
    spec = LossSpec.parse(text or DEFAULT_LOSSES[output.kind])
    for entry in spec.losses:
        problem = _problem(entry, output, sample, available)
        if problem is not None:
            possible = [
                name
                for name in losses.names()
                if name != "distillation"
                and _problem(WeightedLoss(loss=losses.get(name)), output, sample, available) is None
            ]
            raise InvalidArgument(
                f"head {head!r}: loss {entry.loss.name} is not possible, got {problem}; expected "
                f"{', '.join(possible) or 'another encoding'}. Choose one with loss={{{head!r}: NAME}}"
            )
    return spec


def _problem(entry: WeightedLoss, output: OutputHead, sample: SoftLabels, available: Collection[str]) -> str | None:
    """Return why a loss is not possible; None if it is."""
    loss = entry.loss
    if output.kind not in loss.kinds:
        return f"a head of {output.kind}"
    if loss.labels_of is not None:
        return None if loss.labels_of in available else f"labels without a head {loss.labels_of!r}"
    outputs = torch.zeros((*sample.values.shape[:-1], output.classes))
    options: dict[str, Any] = dict(entry.options)
    if loss.temperature and isinstance(sample, SparseLabels):
        options["temperature"] = sample.temperatures[0]
    try:
        loss.function(outputs, sample, **options)
    except InvalidArgument as error:
        return str(error)
    return None
