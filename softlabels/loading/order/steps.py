"""Cutting an epoch into steps, and a step into the shares of ranks and workers: arithmetic, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from softlabels.errors import InvalidArgument

LAST = ("keep", "drop", "repeat")


@dataclass(frozen=True)
class Span:
    """The positions of one step in the order of its epoch.

    Attributes:
        epoch: 0 and up.
        step: over all epochs.
        start: the first position.
        stop: behind the last; above the epoch's length where rows are repeated.
    """

    epoch: int
    step: int
    start: int
    stop: int

    def share(self, rank: int, world_size: int) -> tuple[int, int]:
        """The positions of one rank: the ranks' shares follow one another and differ by at most one row."""
        size = self.stop - self.start
        return self.start + size * rank // world_size, self.start + size * (rank + 1) // world_size


@dataclass(frozen=True)
class Steps:
    """How an epoch is cut.

    Attributes:
        length: rows of an epoch.
        batch_size: rows of a step, over all ranks.
        last: what becomes of the last rows where they fill no batch: ``keep`` them as a smaller one, ``drop`` them, or
            fill up the batch by ``repeat``-ing rows from the beginning of the epoch.
    """

    length: int
    batch_size: int
    last: str = "keep"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidArgument(f"batch_size must be above 0, not {self.batch_size}")
        if self.last not in LAST:
            raise InvalidArgument(f"last is one of {', '.join(LAST)}, not {self.last!r}")
        if len(self) == 0:
            raise InvalidArgument(
                f"{self.length:,} rows fill no batch of {self.batch_size:,}; use a smaller batch_size, or last='keep'"
            )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.length // self.batch_size if self.last == "drop" else -(-self.length // self.batch_size)

    def spans(self, epoch: int, position: int = 0, *, endless: bool = False) -> Iterator[Span]:
        """The steps from a position of an epoch on, to its end or for ever."""
        for number in count(epoch):
            while (span := self._at(number, position)) is not None:
                yield span
                position = span.stop
            if not endless:
                return
            position = 0

    def _at(self, epoch: int, start: int) -> Span | None:
        """The step that begins at a position; None where the epoch is over."""
        left = self.length - start
        if left <= 0 or (self.last == "drop" and left < self.batch_size):
            return None
        size = self.batch_size if self.last == "repeat" else min(self.batch_size, left)
        return Span(epoch, epoch * len(self) + start // self.batch_size, start, start + size)

    def after(self, span: Span) -> tuple[int, int]:
        """Epoch and position behind a step."""
        following = self._at(span.epoch, span.stop)
        return (span.epoch + 1, 0) if following is None else (span.epoch, span.stop)
