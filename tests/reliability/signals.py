"""Signals at random moments: SIGINT and SIGTERM end ``generate`` and ``train-student``, and what was saved can be used.

Each trial starts a process of its own, so that signals also hit the imports. A signal is lost if the process goes on as
if nothing had happened, and a process hangs if it has not ended after a minute. After a signal, the same command must
finish the work.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

INTERRUPTED = 130
PATIENCE = 60.0
"""Seconds that a process has to end."""
RESUMED = 8
"""One in so many interrupted commands is run again."""

ERRORS = "stderr"
"""File that holds what the last process wrote to stderr."""

TEACHER = """
def logits(images):
    return images.float().flatten(1)[:, 20:30]
"""


@dataclass
class Signals:
    """Counts of an experiment.

    Attributes:
        sent: Signals that reached a running process.
        ended: Processes that exited with 130.
        finished: Processes that had done their work, and ended with 0 or by the signal.
        early: Processes that were ended by the signal before the command had begun.
        lost: Processes that went on: work of more than a quarter of a run was done after the signal.
        hung: Processes that had not ended after a minute.
        failed: Processes that ended with another code.
        resumed: Interrupted commands that were run again.
        unsound: Of these, the ones that did not finish.
        seconds: Time from the signal to the end of each process.
    """

    sent: int = 0
    ended: int = 0
    finished: int = 0
    early: int = 0
    lost: int = 0
    hung: int = 0
    failed: int = 0
    resumed: int = 0
    unsound: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def violations(self) -> int:
        """Signals without the effect that they must have."""
        return self.lost + self.hung + self.failed + self.unsound


def run(count: int, *, seed: int = 0, progress: Callable[[int], None] = lambda _: None) -> Signals:
    """Send so many signals, each to a process of its own."""
    rng, result = random.Random(seed), Signals()
    folder = Path(tempfile.mkdtemp())
    try:
        commands = _commands(folder)
        usual = {name: _duration(commands[name](folder / f"usual-{name}"), folder) for name in commands}
        while result.sent < count:
            name = ("generate", "train-student")[result.sent % 2]
            _trial(commands[name](folder / "out"), folder, usual[name], rng, result)
            shutil.rmtree(folder / "out", ignore_errors=True)
            progress(result.sent)
    finally:
        shutil.rmtree(folder)
    return result


def _commands(folder: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Write a teacher, and return functions from an output to the arguments of a command."""
    (folder / "signal_teacher.py").write_text(TEACHER)
    teacher = ["--teacher", "python:signal_teacher:logits", "--batch-size", "32", "--unit-rows", "64", "-q"]
    student = ["--student", "mlp:width=4,depth=1", "--data", "digits", "--steps", "400", "-q"]
    return {
        "generate": lambda out: ["generate", "digits", *teacher, "--out", str(out)],
        "train-student": lambda out: ["train-student", str(folder / "usual-generate"), *student, "--out", str(out)],
    }


def _start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    def restore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored by whatever a shell starts in the background

    with (folder / ERRORS).open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "softlabels_cli", *arguments],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=restore,  # noqa: PLW1509  this process has no other threads
        )


def _duration(arguments: list[str], folder: Path) -> float:
    began = time.monotonic()
    if _start(arguments, folder).wait() != 0:
        raise RuntimeError(f"softlabels {' '.join(arguments)} failed")
    return time.monotonic() - began


def _trial(arguments: list[str], folder: Path, usual: float, rng: random.Random, result: Signals) -> None:
    """Send one signal to a process at a random moment, and count how it ends."""
    process, number = _start(arguments, folder), rng.choice([signal.SIGINT, signal.SIGTERM])
    moment = rng.uniform(0, usual)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        pass
    else:
        return
    process.send_signal(number)
    sent = time.monotonic()
    result.sent += 1
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        result.hung += 1
        return
    result.seconds.append(time.monotonic() - sent)
    if code == 1 and b"softlabels" not in (folder / ERRORS).read_bytes():
        result.early += 1  # Python itself was starting: it fails to import its site module
    else:
        _count(code, number, moment, usual, result)
    if code == INTERRUPTED and result.ended % RESUMED == 1:
        result.resumed += 1
        result.unsound += _start(arguments, folder).wait() != 0


def _count(code: int, number: int, moment: float, usual: float, result: Signals) -> None:
    if code == INTERRUPTED:
        result.ended += 1
    elif code == -number:
        # Before the command has begun, and once Python ends, the signal has the effect that it has on every process.
        if moment < usual / 2:
            result.early += 1
        else:
            result.finished += 1
    elif code == 0:
        if result.seconds[-1] > usual / 4:
            result.lost += 1
        else:
            result.finished += 1
    else:
        result.failed += 1
