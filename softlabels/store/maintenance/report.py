"""Reports of verification: the problems of a store, whether it is complete and sealed, and the command that helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from softlabels.version import SCHEMA_VERSION

Fix = Literal["descriptor", "fetch", "copy", "repair", "generate", "seal"]
"""Kinds of command that end a problem."""

ORDER: tuple[Fix, ...] = ("descriptor", "fetch", "copy", "repair", "generate", "seal")
"""Fixes in the order to apply them: each is of use only after those before it."""


@dataclass(frozen=True)
class Problem:
    """A damaged or missing file.

    Attributes:
        unit: Unit that the file belongs to; None for files of the whole store.
        path: Location of the file.
        problem: Sentence that says what is wrong.
        fix: Kind of command that ends it.
    """

    unit: int | None
    path: str
    problem: str
    fix: Fix

    def to_json(self) -> dict[str, Any]:
        """Return the problem as ``verify --json`` prints it."""
        return {"unit": self.unit, "path": self.path, "problem": self.problem, "fix": self.fix}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of verifying a store.

    Attributes:
        store: Location of the store.
        units: Committed units.
        rows: Their rows.
        skipped: Units that were not read because their files are as they were when last verified on this machine.
        missing_units: Units without a record.
        sealed: True if the last snapshot names exactly the committed units.
        bad: Problems in the order they were found.
    """

    store: str
    units: int
    rows: int
    skipped: int
    missing_units: int
    sealed: bool
    bad: tuple[Problem, ...]

    @property
    def complete(self) -> bool:
        """True if every unit has a record."""
        return not self.missing_units

    @property
    def ok(self) -> bool:
        """True if nothing is damaged, and the store is complete and sealed."""
        return not self.bad and self.complete and self.sealed

    @property
    def verdict(self) -> str:
        """The state of the store in a few words, such as ``2 problems, 3 units missing, not sealed``."""
        if self.ok:
            return "complete and sealed"
        words = [f"{len(self.bad)} problem{'s' * (len(self.bad) != 1)}"] if self.bad else []
        if not self.complete:
            words.append(f"{self.missing_units:,} unit{'s' * (self.missing_units != 1)} missing")
        return ", ".join(words if self.sealed else [*words, "not sealed"])

    @property
    def fix(self) -> Fix | None:
        """The kind of command to run next; None if the store is complete and sealed."""
        fixes = {problem.fix for problem in self.bad}
        if not self.complete:
            fixes.add("generate")
        if not self.sealed:
            fixes.add("seal")
        return next((fix for fix in ORDER if fix in fixes), None)

    @property
    def advice(self) -> str | None:
        """The command to run next, as a sentence; None if the store is complete and sealed."""
        return None if self.fix is None else ADVICE[self.fix].format(store=self.store)

    def advice_after_repair(self, moved: Sequence[int]) -> str | None:
        """Return the command to run after ``repair`` moved these units; None if the store was complete and sealed."""
        if self.ok:
            return None
        fix: Fix = "generate" if moved or not self.complete else "seal"
        return ADVICE["fetch" if self.fix == "fetch" else fix].format(store=self.store)

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``verify --json`` prints it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "ok": self.ok,
            "complete": self.complete,
            "sealed": self.sealed,
            "units": self.units,
            "rows": self.rows,
            "skipped": self.skipped,
            "missing_units": self.missing_units,
            "fix": self.fix,
            "advice": self.advice,
            "bad": [problem.to_json() for problem in self.bad],
        }


ADVICE: dict[Fix, str] = {
    "descriptor": "Fetch {store}/softlabels.json again, or delete it and run the generate command that made the store.",
    "fetch": "Fetch the files named above again; if this is the only copy, delete {store} and generate it again.",
    "copy": "Run the push or pull command that makes {store} again: it copies the missing units and seals.",
    "repair": "Run softlabels repair {store}.",
    "generate": "Run the generate command that made {store} again: it makes the missing units and seals.",
    "seal": "Run softlabels seal {store}.",
}
"""Sentences of advice, by fix."""
