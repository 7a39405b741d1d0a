"""Signals during training: none is lost, and the last steps are saved.

A handler that raises in any frame can be swallowed there, for example inside a callback of the garbage collector. So
while steps run, SIGINT and SIGTERM only set a flag, which the loop checks after each step: it writes a checkpoint and
then delivers the signal to the handler that was installed before. A second signal is delivered at once.
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
    def deferring(self) -> Iterator[None]:
        """Only set the flag while the block runs."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def deliver(self, message: str) -> None:
        """Deliver a signal that arrived to the handler that was installed before.

        Args:
            message: Text of KeyboardInterrupt, for the command line.

        Raises:
            KeyboardInterrupt: A signal arrived, and its handler did not end the process.
        """
        if self.received is None:
            return
        received, previous = self.received, dict(self._previous)
        self.restore()
        try:
            if received in previous:
                signal.raise_signal(received)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(message) from None
        raise KeyboardInterrupt(message)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, self.received or signal.Signals(number)
        if self._deferred and not again:
            return
        previous = self._previous.get(signal.Signals(number))
        if callable(previous):
            previous(number, frame)
        else:
            self.restore()
            signal.raise_signal(number)


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
