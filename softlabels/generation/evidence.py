"""What a unit gathers while its dense logits are at hand: sums for the tail prior, and the probe's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import Encoded
from softlabels.store import Descriptor
from softlabels.store.evidence import PRIOR, PROBE, PROBE_NUMBERS, gathers, probes

if TYPE_CHECKING:
    from torch import Tensor


class Evidence:
    """One unit's share for one head.

    Args:
        descriptor: of the store.
        head: name of the head.
        unit: the unit that is being written.
    """

    def __init__(self, descriptor: Descriptor, head: str, unit: int) -> None:
        self._descriptor = descriptor
        self._name = head
        self._head = descriptor.heads[head]
        self._encoding = descriptor.encoding(head)
        self._first = unit * descriptor.unit_rows
        self._sums = self._encoding.has_tail and bool(gathers(descriptor, np.array([unit]))[0])
        self._residual: NDArray[np.float64] | None = None
        self._logits: list[NDArray[np.float32]] = []
        self._numbers: list[NDArray[np.int64]] = []

    def encode(self, logits: Tensor, start: int) -> Encoded:
        """Encode rows of the unit, from its ``start``-th on, and keep what they add to the evidence."""
        local = np.arange(start, start + len(logits), dtype=np.int64)
        encoded = self._encoding.encode(logits, self._head, self._first + local, residual=self._sums)
        if encoded.residual is not None:
            self._residual = encoded.residual if self._residual is None else self._residual + encoded.residual
        if not self._head.ragged:
            kept = probes(self._descriptor, self._name, self._first + local)
            if kept.any():
                self._logits.append(logits[np.flatnonzero(kept)].float().cpu().numpy())
                self._numbers.append(local[kept])
        return encoded

    def extras(self) -> dict[str, NDArray[Any]]:
        """Arrays to commit with the unit; none where it gathers nothing."""
        found: dict[str, NDArray[Any]] = {}
        if self._residual is not None:
            found[f"{self._name}/{PRIOR}"] = self._residual.astype(np.float32)
        if self._logits:
            found[f"{self._name}/{PROBE}"] = np.concatenate(self._logits)
            found[f"{self._name}/{PROBE_NUMBERS}"] = np.concatenate(self._numbers)
        return found
