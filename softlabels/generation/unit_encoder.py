"""Encoding a unit's rows, and keeping what sealing needs while the dense logits are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels import rng
from softlabels.columns import ranges
from softlabels.encodings import Codebook, Encoded
from softlabels.fidelity import measure
from softlabels.labels import DISTRIBUTIONS
from softlabels.store import Descriptor, UnitStatistics

if TYPE_CHECKING:
    from torch import Tensor


class UnitEncoder:
    """Encodes the rows of one unit.

    Args:
        descriptor: of the store.
        unit: the unit that is being written.
        codebooks: of the heads that have one.

    Attributes:
        evidence: what the rows that were kept say of the unit.
    """

    def __init__(self, descriptor: Descriptor, unit: int, codebooks: Mapping[str, Codebook]) -> None:
        self._codebooks = codebooks
        self._descriptor = descriptor
        self._first = unit * descriptor.unit_rows
        self.evidence = UnitStatistics(descriptor, unit)

    def encode(
        self, head: str, logits: Tensor, rows: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> Encoded:
        """Encode one head's outputs for ``rows`` of the unit.

        Args:
            head: which.
            logits: (B, *shape, C); of ragged rows all positions, one row after the other.
            rows: (B,) numbers within the unit.
            lengths: (B,) positions of each row; None: rows are not ragged.

        Raises:
            InvalidLogits: see Encoding.encode; nothing was kept.
        """
        kind = self._descriptor.heads[head]
        numbers, positions = self._first + rows, None
        if lengths is not None:
            numbers, positions = np.repeat(numbers, lengths), ranges(np.zeros(len(lengths), np.int64), lengths)
        words = rng.words(self._descriptor.seed, numbers, positions, stream=rng.DRAW_STREAM)
        wanted = self.evidence.wants_sums(head)
        return self._descriptor.encoding(head).encode(
            logits, kind, numbers, words=words, residual=wanted, codebook=self._codebooks.get(head)
        )

    def keep(
        self,
        head: str,
        encoded: Encoded,
        logits: Tensor,
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64] | None = None,
    ) -> None:
        """Add what a batch that was encoded says of the unit; arguments as for encode."""
        if encoded.residual is not None:
            self.evidence.add_sums(head, encoded.residual)
        items, positions, has_any = np.arange(len(rows)), None, np.ones(len(rows), bool)
        if lengths is not None:
            positions, has_any = self.evidence.positions(rows, lengths), lengths > 0
            items = np.cumsum(lengths) - lengths + positions
        dense = np.flatnonzero(self.evidence.wants_dense(head, rows) & has_any)
        if len(dense):
            where = None if positions is None else positions[dense]
            self.evidence.add_dense(head, rows[dense], logits[items[dense]].float().cpu().numpy(), where)
        kind = self._descriptor.heads[head]
        measured = items[self.evidence.wants_measured(rows) & has_any]
        if len(measured) and kind.kind in DISTRIBUTIONS:
            prior = self._codebooks[head].priors if head in self._codebooks else None
            encoding = self._descriptor.encoding(head)
            # Taken before they are decoded: a batch of uneven rows, padded to the longest, may not fit into memory.
            labels = encoding.decode(ragged.take(encoded.arrays, encoding.columns(kind), measured), kind, prior)
            found = measure(logits[measured].float().cpu().numpy(), labels, kind.temperatures)
            self.evidence.add_measured(head, found)
