"""Fidelity of one head of a sealed store, as snapshots hold it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from softlabels.fidelity import Fidelity
from softlabels.store.format.fields import Fields
from softlabels.store.format.limits import MAX_UNITS


@dataclass(frozen=True, kw_only=True)
class HeadFidelity:
    """Fidelity of the labels of a head, measured twice.

    Attributes:
        probe: Fidelity of the rows stored dense, with the tail prior that readers use; None without such rows.
        units: Mean fidelity of a few rows of every unit, without that prior; None if units were not measured.
        poorest: Fidelity of the unit that lists the least probability; None if units were not measured.
        poorest_unit: Number of that unit.

    Example:
        >>> import numpy as np
        >>> import softlabels as sl
        >>> with sl.create("labels", heads={"logits": sl.Head(classes=5, encoding="topk:2")}, unit_rows=50) as writer:
        ...     _ = writer.append(range(50), {"logits": np.tile(np.eye(5, dtype=np.float32), (10, 1))})
        >>> fidelity = sl.open("labels").snapshot.fidelity["logits"]
        >>> fidelity.overall.top1, sorted(fidelity.overall.kl)
        (1.0, ['1'])
    """

    probe: Fidelity | None = None
    units: Fidelity | None = None
    poorest: Fidelity | None = None
    poorest_unit: int | None = None

    @property
    def overall(self) -> Fidelity:
        """Fidelity of the rows stored dense, or of the units if there are no such rows.

        Raises:
            ValueError: There are neither.
        """
        fidelity = self.probe or self.units
        if fidelity is None:
            raise ValueError("a fidelity of neither dense rows nor units")
        return fidelity

    def to_json(self) -> dict[str, Any]:
        """Return the object that snapshots and ``inspect --json`` hold (docs/FORMAT.md, section 6)."""
        units = {} if self.units is None else self.units.to_json()
        if self.poorest is not None:
            units["poorest"] = {"unit": self.poorest_unit} | self.poorest.to_json()
        overall = units if self.probe is None else self.probe.to_json()
        return overall | ({"units": units} if units else {})

    @classmethod
    def from_json(cls, fields: Fields) -> Self:
        """Return the fidelity of a head of a snapshot, which is untrusted.

        Args:
            fields: Fields of the head's object.

        Raises:
            ValueError: The object is not of the form that ``to_json`` returns.
        """
        overall = _parse(fields)
        if "units" not in set(fields):
            return cls(probe=overall)
        # Without dense rows, the figures of the units stand in for theirs, together with the poorest unit.
        probe = None if "poorest" in set(fields) else overall
        units = fields.object("units")
        if "poorest" not in set(units):
            return cls(probe=probe, units=_parse(units))
        poorest = units.object("poorest")
        return cls(
            probe=probe,
            units=_parse(units),
            poorest=_parse(poorest),
            poorest_unit=poorest.integer("unit", 0, MAX_UNITS),
        )


def _parse(fields: Fields) -> Fidelity:
    """Return the figures of an object; snapshots made before the error was measured lack it."""
    figures = {name: fields.get(name) for name in fields}
    fidelity = Fidelity.from_json({"error": 0.0} | figures)
    return fidelity if "error" in figures else replace(fidelity, error=None)
