"""Encoding a unit's rows, and keeping what sealing needs while the dense logits are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import Encoded
from softlabels.store import Descriptor, UnitEvidence

if TYPE_CHECKING:
    from torch import Tensor


class UnitEncoder:
    """Encodes the rows of one unit.

    Args:
        descriptor: of the store.
        unit: the unit that is being written.

    Attributes:
        evidence: what the rows that were kept say of the unit.
    """

    def __init__(self, descriptor: Descriptor, unit: int) -> None:
        self._descriptor = descriptor
        self._first = unit * descriptor.unit_rows
        self.evidence = UnitEvidence(descriptor, unit)

    def encode(self, head: str, logits: Tensor, rows: NDArray[np.int64]) -> Encoded:
        """Encode one head's outputs for ``rows`` of the unit; of ragged rows ``logits`` holds all positions.

        Raises:
            InvalidLogits: see Encoding.encode; nothing was kept.
        """
        kind = self._descriptor.heads[head]
        numbers = self._first + (np.zeros(len(logits), np.int64) if kind.ragged else rows)
        wanted = self.evidence.wants_sums(head)
        return self._descriptor.encoding(head).encode(logits, kind, numbers, residual=wanted)

    def keep(self, head: str, encoded: Encoded, logits: Tensor, rows: NDArray[np.int64]) -> None:
        """Add what a batch that was encoded says of the unit."""
        if encoded.residual is not None:
            self.evidence.add_sums(head, encoded.residual)
        kept = np.flatnonzero(self.evidence.wants_dense(head, rows))
        if len(kept):
            self.evidence.add_dense(head, rows[kept], logits[kept].float().cpu().numpy())
