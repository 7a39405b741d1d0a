"""SIGINT and SIGTERM on the command line: both end a command, and none is lost.

The handler raises KeyboardInterrupt in whatever frame runs. A library may swallow it there, or fail with another error
because it was half imported. The handler therefore also sets a flag: progress reports raise again, and ``main`` takes
any error behind a signal for an interruption.

While modules are imported, the signal is sent again a moment later: torch imports modules from C++, which aborts the
process if an import raises.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_received: list[float] = []
"""Times at which signals have arrived since the command began, in seconds of the monotonic clock."""

MAX_IMPORT = 10.0
"""Seconds after which a signal ends an import, too."""
RETRY = 0.05
"""Seconds until a signal that arrived during an import is sent again."""


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """End the block by KeyboardInterrupt on SIGINT and SIGTERM; a signal that is ignored stays ignored."""
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:  # None: installed by code outside of Python
                signal.signal(number, handler)


def received() -> bool:
    """Return True if a signal has arrived since the command began."""
    return bool(_received)


def raise_if_received() -> None:
    """Raise KeyboardInterrupt if a signal has arrived whose exception was swallowed."""
    if _received:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(time.monotonic())
    if not _imports(frame) or _received[-1] - _received[0] > MAX_IMPORT:
        raise KeyboardInterrupt
    timer = threading.Timer(RETRY, signal.pthread_kill, (threading.main_thread().ident, number))
    timer.daemon = True
    timer.start()


def _imports(frame: FrameType | None) -> bool:
    """Return True if a frame runs in the import of a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
