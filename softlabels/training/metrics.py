"""Metrics of a run: lines of JSON, one per logged step."""

from __future__ import annotations

import json
from pathlib import Path

from softlabels.models.run_files import append_line, read_file, write_file

METRICS_FILE = "metrics.jsonl"
MAX_METRICS_BYTES = 256 * 2**20


class Metrics:
    """Metrics of a run that starts or resumes.

    Lines after the step that the run resumes from are dropped, and so is everything from a line on that a death cut.

    Args:
        folder: Run directory.
        done: Number of steps that are done.

    Raises:
        RunCorrupt: The file is too large, or not a regular file.
        StorageFailed: The file cannot be written.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self._folder = folder
        try:
            lines = read_file(folder, METRICS_FILE, MAX_METRICS_BYTES).decode(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        complete = []
        for line in lines:
            step = _step_of(line)
            if step is None or step > done:
                break
            complete.append(line)
        write_file(folder, METRICS_FILE, "".join(f"{line}\n" for line in complete).encode())

    def write(self, *, step: int, loss: float, lr: float) -> None:
        """Append a line.

        Args:
            step: Number of steps that are done.
            loss: Loss of the last step.
            lr: Learning rate of the last step.

        Raises:
            StorageFailed: The line cannot be written.
        """
        append_line(self._folder, METRICS_FILE, json.dumps({"step": step, "loss": loss, "lr": lr}))


def _step_of(line: str) -> int | None:
    """Return the step of a line; None if the line is not complete."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
