"""Threads that hide the time of requests: results come in order, and one per thread is computed ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(threads: int, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results of a function for items in their order, computed ahead by threads.

    Args:
        threads: Number of threads, such as `Storage.read_threads`. 1: everything runs on this thread, when needed.
        function: Function of an item.
        items: The items.

    Raises:
        Exception: Whatever the function raises, behind the results of the items before.

    Example:
        >>> list(map_ahead(4, abs, [-1, 2, -3]))
        [1, 2, 3]
    """
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="softlabels-ahead") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
