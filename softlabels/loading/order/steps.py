"""Cutting an epoch into steps, and a step into the shares of ranks: arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal, get_args

from softlabels.errors import InvalidArgument

Last = Literal["keep", "drop", "repeat"]


@dataclass(frozen=True)
class Span:
    """The positions of one step in the order of its epoch.

    Attributes:
        epoch: Epoch, from 0.
        step: Step over all epochs, from 0.
        start: First position.
        stop: Position behind the last; above the length of the epoch if rows are repeated.
    """

    epoch: int
    step: int
    start: int
    stop: int

    def share(self, rank: int, world_size: int) -> tuple[int, int]:
        """Return the positions of one rank. Shares are adjacent, and their sizes differ by at most one row."""
        size = self.stop - self.start
        return self.start + size * rank // world_size, self.start + size * (rank + 1) // world_size


@dataclass(frozen=True)
class Steps:
    """The steps of an epoch.

    Attributes:
        length: Rows of an epoch.
        batch_size: Rows of a step, over all ranks.
        last: Use of the last rows if they do not fill a batch: ``keep`` them as a smaller batch, ``drop`` them, or fill
            the batch by ``repeat``-ing rows from the beginning of the epoch.

    Raises:
        InvalidArgument: A batch size below 1, an unknown ``last``, or an epoch without steps.

    Example:
        >>> [(span.start, span.stop) for span in Steps(10, 4).spans(0)]
        [(0, 4), (4, 8), (8, 10)]
    """

    length: int
    batch_size: int
    last: Last = "keep"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidArgument(f"batch_size: got {self.batch_size}; expected at least 1")
        if self.last not in get_args(Last):
            raise InvalidArgument(f"last: unknown value, got {self.last!r}; expected {', '.join(get_args(Last))}")
        if len(self) == 0:
            raise InvalidArgument(
                f"batch_size: {self.length:,} rows do not fill a batch, got {self.batch_size:,}. Use a smaller "
                "batch_size, or last='keep'"
            )

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return self.length // self.batch_size if self.last == "drop" else -(-self.length // self.batch_size)

    def spans(self, epoch: int, position: int = 0, *, endless: bool = False) -> Iterator[Span]:
        """Yield the steps from a position of an epoch on, to the end of the epoch or forever."""
        for number in count(epoch):
            while (span := self._from(number, position)) is not None:
                yield span
                position = span.stop
            if not endless:
                return
            position = 0

    def _from(self, epoch: int, start: int) -> Span | None:
        """Return the step that begins at a position; None at the end of the epoch."""
        rest = self.length - start
        if rest <= 0 or (self.last == "drop" and rest < self.batch_size):
            return None
        size = self.batch_size if self.last == "repeat" else min(self.batch_size, rest)
        return Span(epoch, epoch * len(self) + start // self.batch_size, start, start + size)

    def after(self, span: Span) -> tuple[int, int]:
        """Return the epoch and the position behind a step."""
        following = self._from(span.epoch, span.stop)
        return (span.epoch + 1, 0) if following is None else (span.epoch, span.stop)
