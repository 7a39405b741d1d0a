"""What a unit gathers while its dense logits are at hand: sums for the tail prior, and the probe's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import Encoded
from softlabels.store import Descriptor, evidence_units, probe_rows
from softlabels.store.evidence import PRIOR, PROBE, PROBE_NUMBERS

if TYPE_CHECKING:
    from torch import Tensor


class EvidencePlan:
    """Which units gather, and which rows are kept dense; computed once a run.

    Args:
        descriptor: of the store.
        head: name of the head.
    """

    def __init__(self, descriptor: Descriptor, head: str) -> None:
        self.head_name = head
        self.head = descriptor.heads[head]
        self.encoding = descriptor.encoding(head)
        self.units = frozenset(evidence_units(descriptor))
        self.rows = probe_rows(descriptor, head)


class Evidence:
    """One unit's share.

    Args:
        plan: of the run.
        unit: the unit that is being written.
    """

    def __init__(self, plan: EvidencePlan, unit: int) -> None:
        self._plan = plan
        self._gathers = unit in plan.units
        self._residual: NDArray[np.float64] | None = None
        self._logits: list[NDArray[np.float32]] = []
        self._numbers: list[NDArray[np.int64]] = []

    def encode(self, logits: Tensor, rows: NDArray[np.int64]) -> Encoded:
        """Encode a batch of the unit and keep what it adds to the evidence."""
        wants = self._gathers and self._plan.encoding.has_tail
        encoded = self._plan.encoding.encode(logits, self._plan.head, rows, residual=wants)
        if encoded.residual is not None:
            self._residual = encoded.residual if self._residual is None else self._residual + encoded.residual
        if self._gathers:
            kept = np.isin(rows, self._plan.rows, assume_unique=True)
            if kept.any():
                self._logits.append(logits[np.flatnonzero(kept)].float().cpu().numpy())
                self._numbers.append(rows[kept])
        return encoded

    def extras(self) -> dict[str, NDArray[Any]]:
        """Arrays to commit with the unit; none where it gathers nothing."""
        found: dict[str, NDArray[Any]] = {}
        if self._residual is not None:
            found[f"{self._plan.head_name}/{PRIOR}"] = self._residual.astype(np.float32)
        if self._logits:
            found[f"{self._plan.head_name}/{PROBE}"] = np.concatenate(self._logits)
            found[f"{self._plan.head_name}/{PROBE_NUMBERS}"] = np.concatenate(self._numbers)
        return found
