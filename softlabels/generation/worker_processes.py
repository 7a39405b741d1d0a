"""Labelling by several processes of this machine, which one process starts and watches.

Each worker has a pipe of its own, so that one that is killed in the middle of a report disturbs no other. A worker that
dies is replaced, and the replacement resumes from the store. An error of a worker ends the run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from softlabels.errors import SoftLabelsError, WorkerDied
from softlabels.generation.engine import Work
from softlabels.generation.labelling import label_missing
from softlabels.generation.payload import Payload
from softlabels.generation.ranks import Rank
from softlabels.generation.tally import Tally, UnitProgress

MAX_DEATHS = 3
"""Deaths in a row, without a unit committed in between, that end a run."""

STOP_SECONDS = 20.0
"""Time that a worker has to drop its unit before it is killed."""


@dataclass(frozen=True)
class Worker:
    """A process that labels.

    Attributes:
        index: Rank of the process.
        process: The process.
        reports: End of the pipe that its reports arrive at.
    """

    index: int
    process: BaseProcess
    reports: Connection


def label_in_processes(work: Work, tally: Tally) -> None:
    """Label the missing units by ``work.settings.processes`` processes.

    Args:
        work: Data, teacher and store.
        tally: Receives the reports of all processes.

    Raises:
        InvalidArgument: Data or teacher cannot be pickled.
        WorkerDied: Processes end again and again before they have committed a unit.
        SoftLabelsError: A worker raised it.
    """
    count = min(work.settings.processes or 1, max(1, sum(1 for _ in work.store.missing())))
    payload = Payload.pack(work)
    deaths = 0
    with _stopping([_start(payload, index, count) for index in range(count)]) as workers:
        while workers:
            for reports in wait([worker.reports for worker in workers]):
                worker = next(worker for worker in workers if worker.reports is reports)
                try:
                    message = worker.reports.recv()
                except (EOFError, OSError):
                    message = None
                if isinstance(message, UnitProgress):
                    tally.add(message)
                    deaths = 0 if message.committed else deaths
                    continue
                if isinstance(message, BaseException):
                    raise message
                workers.remove(worker)
                reason = _end_of(worker)
                if message is not None:
                    continue
                deaths += 1
                if deaths > MAX_DEATHS:
                    raise WorkerDied(
                        f"generate: {deaths} worker processes ended before they committed a unit, the last one "
                        f"{reason}; expected them to finish. Is there enough memory for {count} copies of the teacher? "
                        "Use fewer (processes=)"
                    )
                workers.append(_start(payload, worker.index, count))


@contextmanager
def _stopping(workers: list[Worker]) -> Iterator[list[Worker]]:
    """End all workers that still run when the context is left."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.reports.close()


def _start(payload: Payload, index: int, count: int) -> Worker:
    context = multiprocessing.get_context("spawn")
    reports, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(payload, Rank(index, count, index), sender), name=f"softlabels-{index}", daemon=True
    )
    process.start()
    sender.close()  # so that the pipe ends with the worker
    return Worker(index, process, reports)


def _end_of(worker: Worker) -> str:
    """Wait for the end of a worker and return how it ended, for a message."""
    worker.process.join()
    worker.reports.close()
    code = worker.process.exitcode or 0
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _work(payload: Payload, rank: Rank, sender: Connection) -> None:
    """Label units in a worker process and report to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, name="softlabels-parent", daemon=True).start()
    try:
        import torch

        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // rank.count))
        label_missing(payload.unpack(rank), sender.send)
        sender.send("done")
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:  # noqa: BLE001  carried to the first process, which raises it
        sender.send(_portable(error))


def _portable(error: BaseException) -> BaseException:
    """Return an error that can be pickled and that shows where it was raised."""
    shown = "".join(traceback.format_exception(error))
    if not isinstance(error, SoftLabelsError):
        error = WorkerDied(f"generate: a worker process raised {type(error).__name__}: {error}")
    error.add_note(shown)
    return error


def _interrupt(signum: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """End this process if the one that started it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(1)
