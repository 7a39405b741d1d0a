"""Metrics of a run: lines of JSON, one per logged step or evaluation.

The lines hold nothing that depends on the clock, so a run that was killed and resumed leaves the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from softlabels.errors import DataNotFound
from softlabels.models.run_files import append_line, read_file, sync_file, write_file

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

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a line.

        Args:
            step: Number of steps that are done.
            figures: Figures by name.

        Raises:
            StorageFailed: The line cannot be written.
        """
        append_line(self._folder, METRICS_FILE, json.dumps({"step": step, **figures}))

    def sync(self) -> None:
        """Make the lines durable, before a checkpoint that they belong to.

        Raises:
            StorageFailed: The operating system refused.
        """
        sync_file(self._folder, METRICS_FILE)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of a run, one mapping per line with the key ``step``.

    Args:
        folder: Run directory.

    Raises:
        DataNotFound: There are none.
        RunCorrupt: The file is too large, or not a regular file.
    """
    try:
        text = read_file(folder, METRICS_FILE, MAX_METRICS_BYTES).decode(errors="replace")
    except FileNotFoundError:
        raise DataNotFound(
            f"{folder}: no metrics, got no {METRICS_FILE}; expected a run directory. Train with softlabels "
            "train-teacher or train-student"
        ) from None
    return [json.loads(line) for line in text.splitlines() if _step_of(line) is not None]


def _step_of(line: str) -> int | None:
    """Return the step of a line; None if the line is not complete."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
