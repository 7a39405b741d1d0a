"""The count of rows and units of a run, from reports of one or of several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from softlabels.generation.bad_rows import check_bad_rows
from softlabels.generation.batches import BadRow
from softlabels.generation.engine import Labelled, ProgressReport, Work


class UnitProgress(NamedTuple):
    """Report on one unit.

    Attributes:
        unit: Number of the unit.
        rows: Rows of the unit that are done.
        copied_rows: Rows among them that were copied from other stores.
        skipped: Rows of the unit that cannot be labelled.
        committed: True if the reporting process has committed the unit.
    """

    unit: int
    rows: int
    copied_rows: int = 0
    skipped: tuple[BadRow, ...] = ()
    committed: bool = False


Report = Callable[[UnitProgress], None]
"""Callback that receives reports, from one thread at a time."""


class Tally:
    """Rows and units of a run.

    Rows are counted by unit, so a unit that a second process begins anew, after the first one died, counts once.

    Args:
        work: The work; its units that are missing now are still to be done.
        progress: Callback that receives the rows done and the rows of the store; None to report nothing.
    """

    def __init__(self, work: Work, progress: ProgressReport | None) -> None:
        descriptor = work.store.descriptor
        self._total = len(work.plan)
        self._progress = progress
        self._done = self._total - sum(len(descriptor.unit_range(unit)) for unit in work.store.missing())
        self._rows: dict[int, int] = {}
        self._copied_rows: dict[int, int] = {}
        self._committed: set[int] = set()
        self._skipped: dict[int, tuple[BadRow, ...]] = {}
        self._skip_bad = work.settings.skip_bad
        self._show()

    def add(self, report: UnitProgress) -> None:
        """Count a report.

        Raises:
            TooManyBadRows: All processes together skipped more rows than may be skipped.
        """
        if report.committed:
            self._committed.add(report.unit)
            return
        self._done += report.rows - self._rows.get(report.unit, 0)
        self._rows[report.unit] = report.rows
        self._copied_rows[report.unit] = report.copied_rows
        if report.skipped:
            self._skipped[report.unit] = report.skipped
            check_bad_rows((bad for skipped in self._skipped.values() for bad in skipped), self._skip_bad)
        self._show()

    @property
    def labelled(self) -> Labelled:
        """Units and rows that the run committed."""
        copied = sum(self._copied_rows.get(unit, 0) for unit in self._committed)
        return Labelled(units=len(self._committed), copied_rows=copied)

    def _show(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total)
