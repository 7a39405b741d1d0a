"""Threads beside the consumer's, and running an iterator a little ahead of it on one of them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

GROUPS = 3
"""Groups of items that are made or waiting at any time."""


class Threads(ThreadPoolExecutor):
    """A few threads that may be left behind by a script that ends in the middle of an epoch."""

    _is_finalizing = staticmethod(sys.is_finalizing)  # kept here, for modules are emptied by then

    def end(self) -> None:
        """Give up what has not begun and wait for what has; the interpreter has done so itself where it ends."""
        if not self._is_finalizing():
            self.shutdown(wait=True, cancel_futures=True)


def ahead(items: Generator[Item], group: int) -> Generator[Item]:
    """The items of a generator, made on another thread, in groups so that the threads meet rarely.

    An error comes out where it belongs: behind the items that were made before it.

    Args:
        items: what makes them; closed at the end.
        group: items of a group.
    """
    pool = Threads(1, thread_name_prefix="softlabels-batches")
    waiting: deque[Future[tuple[list[Item], BaseException | None]]] = deque()
    try:
        # The first alone: nobody waits for a group before the first step.
        waiting.extend(pool.submit(_some, items, size) for size in (1, *[group] * (GROUPS - 1)))
        while waiting:
            made, error = waiting.popleft().result()
            if made and error is None:
                waiting.append(pool.submit(_some, items, group))
            yield from made
            if error is not None:
                raise error
            if not made:
                return
    finally:
        pool.end()
        items.close()


def _some(items: Generator[Item], group: int) -> tuple[list[Item], BaseException | None]:
    """Up to so many items, and what stopped their making."""
    made: list[Item] = []
    try:
        while len(made) < group:
            made.append(next(items))
    except StopIteration:
        pass
    except BaseException as error:  # noqa: BLE001  raised where the items are consumed
        return made, error
    return made, None
