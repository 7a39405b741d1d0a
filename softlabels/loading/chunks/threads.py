"""Threads beside the consumer's: a pool that may be abandoned, and an iterator that runs ahead on one.

An iterator over batches may be dropped at any point of an epoch. Python then finalizes it on whatever thread dropped
the last reference. If the iterator lies in a reference cycle, the garbage collector does so wherever it runs: on a
thread of the pool that is being ended, or in the middle of a critical section. So nothing here waits when it is
finalized and nothing takes a lock that running code may hold. Pools are told to end, and their threads, which hold them
weakly, end on their own. ``concurrent.futures`` joins threads that still run when the interpreter ends.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

MAX_GROUPS = 3
"""Groups of items that are ready or in progress at any time."""


class Threads(ThreadPoolExecutor):
    """A pool of a few threads that can be ended without waiting for them.

    Args:
        count: Number of threads.
        name: Suffix of the threads' names, which begin with ``softlabels-``.
    """

    # A name of the class, because globals of modules may be gone when the interpreter ends.
    _is_finalizing = staticmethod(sys.is_finalizing)

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, thread_name_prefix=f"softlabels-{name}")

    def end(self) -> None:
        """Cancel all work that has not begun. Work in progress finishes on its thread."""
        if not self._is_finalizing():
            self.shutdown(wait=False, cancel_futures=True)


def prefetch(items: Generator[Item], group: int) -> Generator[Item]:
    """Yield the items of a generator that runs on another thread, in groups so that the threads rarely meet.

    Args:
        items: Generator of the items. It is closed when this generator is closed.
        group: Number of items in a group.

    Raises:
        Exception: Whatever ``items`` raises, behind the items that came before it.
    """
    pool = Threads(1, "batches")
    # The first item makes a group of its own, so that the first step does not wait for a full group.
    ready = deque(pool.submit(_next_items, items, count) for count in (1, *[group] * (MAX_GROUPS - 1)))
    try:
        while ready:
            batch_of_items, error = ready.popleft().result()
            if batch_of_items and error is None:
                ready.append(pool.submit(_next_items, items, group))
            yield from batch_of_items
            if error is not None:
                raise error
            if not batch_of_items:
                return
    finally:
        error = None  # its traceback refers to this frame
        pool.end()
        try:  # noqa: SIM105  globals of modules may be gone when the interpreter ends
            items.close()
        except ValueError:  # It is running on the thread, which drops the last reference and so closes it.
            pass


def _next_items(items: Generator[Item], count: int) -> tuple[list[Item], BaseException | None]:
    """Return up to ``count`` items and the error that ended the iteration early, if any."""
    group: list[Item] = []
    try:
        while len(group) < count:
            group.append(next(items))
    except StopIteration:
        pass
    except BaseException as error:  # noqa: BLE001  raised where the items are consumed
        return group, error
    return group, None
