"""``sl.plan``: bytes and fidelity of every encoding, for a store or for a teacher over data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

from softlabels.errors import InvalidArgument
from softlabels.generation.heads import requested_heads
from softlabels.generation.listed_heads import require_logits
from softlabels.generation.pilot import SAMPLE_ROWS, TeacherPilot
from softlabels.generation.preparation import prepare
from softlabels.generation.settings import Codec, Settings, ShardFormat
from softlabels.generation.text_data import open_for_teacher
from softlabels.labels import DISTRIBUTIONS
from softlabels.models import ModelLike
from softlabels.planning import Plan, Sample, sample_of_store
from softlabels.planning import plan as plan_sample
from softlabels.sources import DataLike
from softlabels.sources.request import DataOptions, with_data_options
from softlabels.text.options import TextOptions

DEFAULTS = Settings()

PLAN_ROWS = 1024
"""Rows of data that are predicted to plan with."""


@with_data_options
def plan(
    source: DataLike,
    *,
    teacher: ModelLike | None = None,
    head: str | None = None,
    temperatures: Sequence[float] = DEFAULTS.temperatures,
    rows: int | None = None,
    sampled: int = PLAN_ROWS,
    digest: str | None = None,
    shard_format: ShardFormat | None = None,
    codec: Codec | None = None,
    unit_rows: int | None = None,
    batch_size: int = DEFAULTS.batch_size,
    device: str | None = DEFAULTS.device,
    text: TextOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    **columns: Unpack[DataOptions],
) -> Plan:
    """Return a table of encodings with bytes and fidelity, measured on a sample.

    Args:
        source: Location of a sealed store, whose dense rows are measured; with a teacher, the data to label.
        teacher: Model whose outputs for some rows of the data are measured; None for a store.
        head: Name of the head; None: the first one that is a distribution.
        temperatures: Temperatures of the labels; the first decides. A store has its own.
        rows: Rows to plan for; None: those of the store or the data.
        sampled: Rows of the data to predict.
        digest: Digest that the snapshot of the store must have; None: any.
        shard_format: File format of the shards; None: that of the store, or the default of ``generate``.
        codec: Compression of the shards; None: as for ``shard_format``.
        unit_rows: Rows committed at a time; None: as for ``shard_format``.
        batch_size: Rows that the teacher predicts at a time.
        device: Torch device of the teacher; None: an accelerator if there is one.
        text: Options of text, as for ``generate``.
        progress: Callback that receives the encodings done and their number.
        columns: Roles of the columns of the data; see ``softlabels.sources.open_source``.

    Raises:
        InvalidArgument: The head is no distribution, there are too few rows, or a digest of data is named.
        SoftLabelsError: As opening the store or running the teacher.

    Example:
        >>> table = plan("labels")  # doctest: +SKIP
        >>> table.rows[0].encoding, table.rows[0].bytes_per_row  # doctest: +SKIP
        ('topk:1:d4', 22.1)
    """
    options: dict[str, Any] = {"shard_format": shard_format, "codec": codec, "unit_rows": unit_rows}
    layout = {name: value for name, value in options.items() if value is not None}
    if teacher is None:
        measured = replace(sample_of_store(source, head, digest=digest), **layout)
    else:
        if digest is not None:
            raise InvalidArgument(f"digest: is for a store, got {digest} for data with a teacher. Leave out digest=")
        settings = Settings(temperatures=tuple(temperatures), batch_size=batch_size, device=device, **layout)
        data, model = open_for_teacher(source, teacher, text=text, **columns)
        measured = sample(data, teacher=model, settings=settings, head=head, rows=sampled)
    return plan_sample(measured.for_rows(rows), progress=progress)


def sample(
    data: DataLike,
    *,
    teacher: ModelLike,
    settings: Settings = DEFAULTS,
    head: str | None = None,
    rows: int = SAMPLE_ROWS,
) -> Sample:
    """Return predictions for a few rows, to plan with.

    Args:
        data: As for generate.
        teacher: As for generate.
        settings: Settings of the run; its temperatures, format and codec are planned for.
        head: Name of the head, a distribution; None: the first one.
        rows: Number of rows.

    Raises:
        InvalidArgument: The head does not exist or is no distribution.
        SoftLabelsError: As generate.
    """
    plan, model, settings = prepare(data, teacher, settings, None)
    require_logits(model)
    heads = requested_heads(model.heads, None, settings.temperatures, settings.downsample)
    usable = [name for name, output in heads.items() if output.kind in DISTRIBUTIONS]
    name = head if head is not None else next(iter(usable), None)
    if name not in usable:
        raise InvalidArgument(f"head: no distribution, got {head!r}; expected {', '.join(usable) or 'none is there'}")
    return TeacherPilot(plan, model, settings, rows).sample(name, heads[name])
