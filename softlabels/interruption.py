"""Signals during training and generation: none is lost, and none breaks a library in the middle of its work.

A handler that raises in any frame can be swallowed there, for example in a callback of the garbage collector. Raised
inside the import system it can leave a lock of CPython 3.11 held, and every thread that imports then waits for ever. So
while batches run, SIGINT and SIGTERM only set a flag. The loop checks it after each batch, saves its work, and then
delivers the signal to the handler that was installed before. A second signal is delivered at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Signals that arrived during training.

    Attributes:
        received: The first signal that arrived; None if there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferred = False
        self._grace: float | None = None
        self._timer: threading.Timer | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Install the handlers; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            previous = signal.getsignal(number)
            if previous is not None and previous != signal.SIG_IGN:  # None: installed by code outside of Python
                self._previous[number] = previous
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Restore the handlers that were installed before."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    @contextmanager
    def deferring(self, grace: float | None = None) -> Iterator[None]:
        """Only set the flag while the block runs.

        Args:
            grace: Seconds after which a signal is delivered all the same; None: never.
        """
        self._deferred, self._grace = True, grace
        try:
            yield
        finally:
            self._deferred = False
            self._cancel()

    def deliver(self, message: str = "") -> None:
        """Deliver a signal that arrived to the handler that was installed before.

        Args:
            message: Text of KeyboardInterrupt, for the command line.

        Raises:
            KeyboardInterrupt: A signal arrived, and its handler did not end the process.
        """
        if self.received is None:
            return
        self._cancel()
        received, previous = self.received, dict(self._previous)
        self.restore()
        try:
            if received in previous:
                signal.raise_signal(received)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(message) from None
        raise KeyboardInterrupt(message)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_repeated, self.received = self.received is not None, self.received or signal.Signals(number)
        if self._deferred and not is_repeated:
            if self._grace is not None:
                arguments = (threading.main_thread().ident, number)
                self._timer = threading.Timer(self._grace, signal.pthread_kill, arguments)
                self._timer.daemon = True
                self._timer.start()
            return
        previous = self._previous.get(signal.Signals(number))
        if callable(previous):
            previous(number, frame)
        else:
            self.restore()
            signal.raise_signal(number)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handle SIGINT and SIGTERM while the block runs.

    Yields:
        The signals that arrive.

    Example:
        >>> with interruptible() as interruption, interruption.deferring():
        ...     signal.raise_signal(signal.SIGINT)
        >>> interruption.received
        <Signals.SIGINT: 2>
    """
    interruption = Interruption()
    interruption.install()
    try:
        yield interruption
    finally:
        interruption.restore()
