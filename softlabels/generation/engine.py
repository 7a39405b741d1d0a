"""The interface of an engine: it labels the units of a store that are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from softlabels.generation.ranks import ALONE, Rank
from softlabels.generation.row_plan import RowPlan
from softlabels.generation.settings import Settings
from softlabels.models import Model
from softlabels.store import RowCopier, StoreWriter


class ProgressReport(Protocol):
    """Callback that receives the progress of a run."""

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` rows are done."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything that an engine needs; it can be pickled if data and teacher can.

    Attributes:
        plan: Rows of the store.
        teacher: The model, on its device.
        store: The store; its units that are missing are the work.
        settings: Settings of the run.
        copier: Stores that rows are copied from; None if there are none.
        rank: Position of this process among those that a launcher started.
    """

    plan: RowPlan
    teacher: Model
    store: StoreWriter
    settings: Settings
    copier: RowCopier | None = None
    rank: Rank = ALONE


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Result of an engine.

    Attributes:
        units: Units that were committed.
        copied_rows: Rows that were copied from other stores.
    """

    units: int
    copied_rows: int


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One way of running a teacher.

    Attributes:
        name: Name of the engine.
        summary: One line for help texts.
        run: Labels the missing units; receives the work and a callback for progress, which may be None.
    """

    name: str
    summary: str
    run: Callable[[Work, ProgressReport | None], Labelled]
