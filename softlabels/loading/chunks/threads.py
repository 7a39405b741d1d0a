"""Threads beside the consumer's, running an iterator a little ahead of it on one of them, and their end."""

from __future__ import annotations

import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")

GROUPS = 3
"""Groups of items that are made or waiting at any time."""


class Ending:
    """Closes what waits for threads: at once, or on a thread of its own where the garbage collector closes it.

    The collector runs wherever memory is asked for: on a thread that the closing would wait for, or between the taking
    of a lock and its release. Waiting there may be for ever.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._left: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        gc.callbacks.append(self._note)

    def prepare(self) -> None:
        """Have the thread, which cannot be started while the collector runs."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # a forked process has none of its parent's
                self._thread = threading.Thread(target=self._run, name="softlabels-ending", daemon=True)
                self._thread.start()

    def __call__(self, close: Callable[[], None]) -> None:
        """Call ``close``."""
        if getattr(self._here, "collecting", False):
            self._left.put(close)
        else:
            close()

    def _note(self, phase: str, _: Mapping[str, Any]) -> None:
        self._here.collecting = phase == "start"

    def _run(self) -> None:
        while True:
            close = self._left.get()
            with suppress(Exception):  # nobody holds it any more who could be told
                close()
            del close


ending = Ending()


class Threads(ThreadPoolExecutor):
    """A few threads that may be left behind by a script that ends in the middle of an epoch."""

    _is_finalizing = staticmethod(sys.is_finalizing)  # kept here, for modules are emptied by then

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, thread_name_prefix=f"softlabels-{name}")
        ending.prepare()

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
    pool = Threads(1, "batches")
    waiting: deque[Future[tuple[list[Item], BaseException | None]]] = deque()
    close = ending  # a name of this frame, for modules are emptied when the interpreter ends

    def stop() -> None:
        pool.end()
        items.close()

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
        close(stop)


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
