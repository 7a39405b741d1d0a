"""``sl.plan``: bytes and fidelity of every encoding, for a store or for a teacher over data."""

from __future__ import annotations

from softlabels.generation.api import sample
from softlabels.generation.pilot import SAMPLE_ROWS
from softlabels.generation.settings import Settings
from softlabels.models import ModelLike
from softlabels.planning import Plan, sample_of_store
from softlabels.planning import plan as plan_sample
from softlabels.sources import DataLike


def plan(
    source: DataLike,
    *,
    teacher: ModelLike | None = None,
    head: str | None = None,
    temperatures: tuple[float, ...] = (1.0,),
    rows: int | None = None,
    sampled: int = SAMPLE_ROWS,
) -> Plan:
    """Return a table of encodings with bytes and fidelity, measured on a sample.

    Args:
        source: Location of a sealed store, whose dense rows are measured; with a teacher, the data to label.
        teacher: Model whose outputs for some rows of the data are measured; None for a store.
        head: Name of the head; None: the first one that is a distribution.
        temperatures: Temperatures of the labels; the first decides. A store has its own.
        rows: Rows to plan for; None: those of the store or the data.
        sampled: Rows of the data to predict.

    Raises:
        InvalidArgument: The head is no distribution, or there are too few rows.
        SoftLabelsError: As opening the store or running the teacher.

    Example:
        >>> table = plan("labels")  # doctest: +SKIP
        >>> table.rows[0].encoding, table.rows[0].bytes_per_row  # doctest: +SKIP
        ('topk:1:d4', 22.1)
    """
    if teacher is None:
        measured = sample_of_store(source, head)
    else:
        settings = Settings(temperatures=temperatures)
        measured = sample(source, teacher=teacher, settings=settings, head=head, rows=sampled)
    return plan_sample(measured.for_rows(rows))
