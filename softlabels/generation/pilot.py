"""Pilots: outputs of a few rows. Targets are resolved and codebooks fitted on them before the first row is labelled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabels import planning
from softlabels.encodings.codebook import pilot_rows
from softlabels.errors import InvalidArgument
from softlabels.generation.bad_rows import usable_rows
from softlabels.generation.outputs import HeadOutput, of_predictions
from softlabels.generation.row_plan import RowPlan
from softlabels.generation.settings import Codec, Settings, ShardFormat
from softlabels.labels import Head
from softlabels.models import Model
from softlabels.planning.container import USUAL_POSITIONS

if TYPE_CHECKING:
    from torch import Tensor

    from softlabels.models.sliced_logits import SlicedLogits

SAMPLE_ROWS = 512
"""Rows that a target is resolved on."""

SAMPLE_BYTES = 2**28
"""Most bytes of their logits."""

PILOT_SHARE = 20
"""One row in so many is predicted for a codebook."""

ROW_POSITIONS = 16
"""Positions of a ragged row that a pilot takes."""

GROWN_ROWS = 1_000_000
"""Rows that a store that grows is planned for; only the share of its containers depends on them."""

GIVEN_BLOCK = 512
"""Rows of a pilot array that are looked at at a time."""


class Pilot(Protocol):
    """Logits of a few rows or positions like those of the store."""

    def sample(self, name: str, head: Head) -> planning.Sample:
        """Return a sample to plan with.

        Args:
            name: Name of the head.
            head: The head, a distribution.

        Raises:
            InvalidArgument: There are no such logits, or too few.
        """

    def logits(self, name: str, head: Head) -> Iterable[Tensor]:
        """Return logits to fit a codebook to, (n, C) each.

        Args:
            name: Name of the head.
            head: The head, a distribution.

        Raises:
            InvalidArgument: There are no such logits.
        """


class TeacherPilot:
    """Predictions of a teacher for rows that are spread evenly over the data.

    Args:
        plan: Rows of the store.
        teacher: The model.
        settings: Settings of the run.
        rows: Rows of a sample.
    """

    def __init__(self, plan: RowPlan, teacher: Model, settings: Settings, rows: int = SAMPLE_ROWS) -> None:
        self._plan = plan
        self._teacher = teacher
        self._settings = settings
        self._rows = rows
        self._seconds_per_row: list[float] = []

    def sample(self, name: str, head: Head) -> planning.Sample:
        """See Pilot.sample; also tells how long the teacher takes."""
        size = 4 * head.classes * math.prod(head.position_shape)
        count = min(self._rows, max(planning.MIN_SAMPLE_ROWS, SAMPLE_BYTES // size))
        outputs = list(self._spread(name, head, count))
        positions = sum(int(output.lengths.sum()) for output in outputs if output.lengths is not None)
        rows = sum(map(len, outputs))
        items = len(self._plan) if not head.ragged else max(1, round(len(self._plan) * positions / rows))
        return planning.Sample(
            logits=np.concatenate([_sampled(output).float().cpu().numpy() for output in outputs])[:count],
            temperatures=head.temperatures,
            items=items,
            rows=len(self._plan),
            codec=self._settings.codec,
            kind=head.kind,
            shard_format=self._settings.shard_format,
            unit_rows=self._settings.unit_rows,
            seconds=len(self._plan) * min(self._seconds_per_row),
        )

    def logits(self, name: str, head: Head) -> Iterator[Tensor]:
        """See Pilot.logits."""
        count = min(max(SAMPLE_ROWS, len(self._plan) // PILOT_SHARE), pilot_rows(head))
        for output in self._spread(name, head, count):
            yield _spread_positions(output).float().cpu()

    def _spread(self, name: str, head: Head, count: int) -> Iterator[HeadOutput]:
        """Yield the outputs of about as many rows, or positions, batch by batch."""
        if head.ragged or head.position_shape:
            count = max(planning.MIN_SAMPLE_ROWS, count // ROW_POSITIONS)
        rows = np.unique(np.linspace(0, len(self._plan) - 1, num=min(count, len(self._plan))).astype(np.int64))
        for start in range(0, len(rows), self._settings.batch_size):
            batch = rows[start : start + self._settings.batch_size]
            if self._settings.skip_bad is not None:
                batch = usable_rows(self._plan, self._teacher, batch)
            inputs, predictions, seconds = timed_predictions(self._plan, self._teacher, batch)
            self._seconds_per_row.append(seconds / max(1, len(batch)))
            yield of_predictions(predictions, {name: head}, inputs)[name]


class GivenPilot:
    """Logits that the user of ``sl.create`` computed.

    Args:
        arrays: By head (n, C) logits of a few thousand rows or positions; None if there are none.
        codec: Compression of the shards.
        shard_format: File format of the shards.
        unit_rows: Rows committed at a time; None: from the size of a row.
    """

    def __init__(
        self,
        arrays: Mapping[str, Tensor | NDArray[Any]] | None,
        *,
        codec: Codec,
        shard_format: ShardFormat,
        unit_rows: int | None,
    ) -> None:
        self._arrays = arrays or {}
        self._codec: Codec = codec
        self._shard_format: ShardFormat = shard_format
        self._unit_rows = unit_rows

    def sample(self, name: str, head: Head) -> planning.Sample:
        """See Pilot.sample."""
        if head.encoding.startswith("auto:budget"):
            raise InvalidArgument(
                f"head {name!r}: a budget needs the number of rows, got {head.encoding!r} for a store that grows; "
                "expected bytes per row, such as adaptive:bytes=40 or threshold:bytes=40"
            )
        logits = self._logits(name, head)
        if logits.shape[1:-1] != head.position_shape:
            raise InvalidArgument(
                f"head {name!r}: a target for positions of a fixed shape needs whole rows, got a pilot of shape "
                f"{tuple(logits.shape)}; expected (n, {', '.join(map(str, head.position_shape))}, {head.classes})"
            )
        chosen = np.unique(np.linspace(0, len(logits) - 1, num=SAMPLE_ROWS).astype(np.int64))
        return planning.Sample(
            logits=logits[chosen].float().cpu().numpy(),
            temperatures=head.temperatures,
            items=GROWN_ROWS * USUAL_POSITIONS if head.ragged else GROWN_ROWS,
            rows=GROWN_ROWS,
            codec=self._codec,
            kind=head.kind,
            shard_format=self._shard_format,
            unit_rows=self._unit_rows,
            grows=True,
        )

    def logits(self, name: str, head: Head) -> Iterator[Tensor]:
        """See Pilot.logits."""
        import torch

        yield from torch.split(self._logits(name, head).reshape(-1, head.classes), GIVEN_BLOCK)

    def _logits(self, name: str, head: Head) -> Tensor:
        import torch

        if name not in self._arrays:
            raise InvalidArgument(
                f"head {name!r}: {head.encoding} is fitted before the first row, got no pilot; give sl.create a pilot, "
                "(n, C) logits of a few thousand rows"
            )
        logits = torch.as_tensor(self._arrays[name]).detach()
        if logits.ndim < 2 or tuple(logits.shape[1:]) not in {(head.classes,), (*head.position_shape, head.classes)}:
            raise InvalidArgument(
                f"head {name!r}: the pilot has another shape, got {tuple(logits.shape)}; expected (n, {head.classes})"
            )
        return logits


def timed_predictions(
    plan: RowPlan, teacher: Model, rows: NDArray[np.int64]
) -> tuple[Any, dict[str, Tensor | SlicedLogits], float]:
    """Return the inputs and the predictions of rows, and the seconds that reading and predicting them took.

    Args:
        plan: Rows of the store.
        teacher: The model.
        rows: Row numbers, (n,).
    """
    began = perf_counter()
    inputs = plan.inputs(rows)
    predictions = teacher.predict_sliced(inputs)
    for prediction in predictions.values():
        prediction[:1].sum().item()  # waits for an accelerator
    return inputs, predictions, perf_counter() - began


def _sampled(output: HeadOutput) -> Tensor:
    """Return the rows of an output, (n, *shape, C); of ragged ones some positions of each, (n, C)."""
    return output.values[:] if output.lengths is None else _spread_positions(output)


def _spread_positions(output: HeadOutput) -> Tensor:
    """Return items of an output, (n, C): rows, or up to ROW_POSITIONS positions of each, evenly spread."""
    if output.lengths is None:
        values = output.values[:]
        if values.ndim == 2:
            return values
        flat = values.flatten(1, -2)
        chosen = np.unique(np.linspace(0, flat.shape[1] - 1, num=ROW_POSITIONS).astype(np.int64))
        return flat[:, chosen.tolist()].flatten(0, 1)
    starts = np.cumsum(output.lengths) - output.lengths
    positions = [
        start + np.unique(np.linspace(0, length - 1, num=min(ROW_POSITIONS, length)).astype(np.int64))
        for start, length in zip(starts, output.lengths, strict=True)
        if length > 0
    ]
    return output.values[np.concatenate([np.empty(0, np.int64), *positions])]
