"""Logits that are computed when they are read, slice by slice.

The output layer of a language model makes one row of the vocabulary's size per position: 8,192 positions of 128,000
classes have 4 GiB. The final states of these positions have a hundredth of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from softlabels.errors import InvalidLogits

SLICE_BYTES = 2**25
"""Bytes of the float32 logits of a slice."""


class SlicedLogits:
    """Logits (P, C) of positions whose final states are at hand.

    Args:
        states: Final states, (P, width).
        project: Output layer: states (n, width) to logits (n, C).
        classes: Number of classes C.

    Example:
        >>> logits = SlicedLogits(torch.ones(5, 2), torch.nn.Linear(2, 3), classes=3)
        >>> logits.shape, [len(values) for _, values in logits.slices(2)]
        ((5, 3), [2, 2, 1])
    """

    ndim = 2

    def __init__(self, states: Tensor, project: Callable[[Tensor], Tensor], *, classes: int) -> None:
        self._states = states
        self._project = project
        self.shape = (len(states), classes)

    @classmethod
    def concatenated(cls, logits: Sequence[SlicedLogits], order: Tensor) -> SlicedLogits:
        """Return the logits of several batches of one network as those of one batch.

        Args:
            logits: Logits of each batch, at least one.
            order: Positions of the result among all of them, (P,).
        """
        first = logits[0]
        states = torch.cat([other._states for other in logits])[order.to(first._states.device)]  # noqa: SLF001  this class
        return cls(states, first._project, classes=first.shape[1])  # noqa: SLF001  this class

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: Any) -> Tensor:
        """Return the logits of some positions, (n, C).

        Args:
            positions: Slice, or array of positions.

        Raises:
            InvalidLogits: The output layer has another width than the head.
        """
        states = self._states[positions if isinstance(positions, slice) else torch.as_tensor(positions)]
        with torch.inference_mode():
            logits = self._project(states)
        if logits.shape != (len(states), self.shape[1]):
            raise InvalidLogits(
                f"output layer: got shape {tuple(logits.shape)}; expected {(len(states), self.shape[1])}"
            )
        return logits

    def slices(self, positions: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Yield consecutive positions with their logits.

        Args:
            positions: Positions of a slice; None: as many as have ``SLICE_BYTES``.
        """
        count = max(1, SLICE_BYTES // (4 * self.shape[1])) if positions is None else positions
        for start in range(0, len(self), count):
            selected = slice(start, min(start + count, len(self)))
            yield selected, self[selected]
