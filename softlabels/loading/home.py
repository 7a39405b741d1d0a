"""The process that an object belongs to: forked copies are refused, and orphaned workers end."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import wait

from softlabels.errors import InvalidArgument


class Home:
    """The process in which an object was made or unpickled.

    Args:
        is_worker: The object was unpickled, perhaps in a worker process, which then ends with its parent.
    """

    def __init__(self, *, is_worker: bool = False) -> None:
        self._pid = os.getpid()
        self._is_worker = is_worker

    def __reduce__(self) -> tuple[Callable[[], Home], tuple[()]]:
        """Unpickle as the home of the process that unpickles it."""
        return _unpickled_home, ()

    def check(self) -> None:
        """Check that this is the process that the object belongs to.

        Raises:
            InvalidArgument: The process was forked.
        """
        if self._is_worker:
            # Not when it is unpickled: a worker learns of its parent behind that.
            end_with_parent()
            self._is_worker = False
        if os.getpid() != self._pid:
            raise InvalidArgument(
                "dataset: labels cannot be read in a forked process, which lacks the threads of its parent. Start "
                'DataLoader workers with multiprocessing_context="forkserver" (Trainer: '
                "dataloader_multiprocessing_context)"
            )

    def check_iterator(self) -> None:
        """Check that this is the process that an iterator belongs to.

        Raises:
            InvalidArgument: The process was forked.
        """
        if os.getpid() != self._pid:
            raise InvalidArgument(
                "loader: an iterator cannot continue in a forked process, which lacks the threads of its parent. Make "
                "a new iterator there from state_dict()"
            )


def _unpickled_home() -> Home:
    return Home(is_worker=True)


def end_with_parent(_: int | None = None) -> None:
    """End this process when its parent process does, if it is a daemonic worker; see ``multiprocessing``.

    A worker of a DataLoader waits for its parent's requests. torch notices a dead parent by the process that a worker
    is a child of, which is the fork server rather than the process that owns the DataLoader. Left to itself, the worker
    would wait forever, and so would the fork server, which ends with its last client.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not multiprocessing.current_process().daemon:
        return
    if any(thread.name == _WATCH for thread in threading.enumerate()):
        return
    threading.Thread(target=_watch, args=(parent.sentinel,), name=_WATCH, daemon=True).start()


_WATCH = "softlabels-parent"


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # the threads of this process may be waiting for its parent
