"""Trackers: receivers of the metrics of a run, beside ``metrics.jsonl``.

A tracker is an object with ``log`` and ``close``. To send metrics elsewhere, write such an object and pass it to
``train_student(..., track=[...])``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from softlabels.errors import InvalidArgument


class Tracker(Protocol):
    """Receiver of the metrics of a run."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Receive the figures of a step.

        Args:
            step: Number of steps that are done.
            figures: Figures by name; those of held-out rows begin with ``held_out.``.
        """

    def close(self) -> None:
        """Send what is left, at the end of the run or after an error."""


class TensorBoardTracker:
    """Writes event files for TensorBoard.

    Args:
        folder: Run directory; the files are in its ``tensorboard``.
        config: Options of the run.
        resumed: Step that the run resumes from; later events of an earlier session are hidden.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], resumed: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package("tensorboard", error) from None
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed + 1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See Tracker.log."""
        for name, value in figures.items():
            self._writer.add_scalar(name.replace("held_out.", "held_out/"), value, step)

    def close(self) -> None:
        """See Tracker.close."""
        self._writer.close()


class WandbTracker:
    """Writes a run of Weights & Biases, offline unless WANDB_MODE says otherwise.

    Args:
        folder: Run directory; the files are in its ``wandb``.
        config: Options of the run.
        resumed: Step that the run resumes from.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], resumed: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_package("wandb", error) from None
        self._run: Any = wandb.init(
            dir=str(folder),
            config=dict(config),
            name=folder.name,
            mode="offline" if "WANDB_MODE" not in os.environ else None,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See Tracker.log."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """See Tracker.close."""
        self._run.finish()


class TrackioTracker:
    """Writes a run of trackio to its folder, which ``trackio show`` draws; nothing is sent anywhere.

    A run that resumes is continued under the name of its directory. CPU and GPU are not monitored.

    Args:
        folder: Run directory; its name is that of the run.
        config: Options of the run.
        resumed: Step that the run resumes from.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], resumed: int) -> None:
        try:
            import trackio
        except ImportError as error:
            raise missing_package("trackio", error) from None
        with redirect_stdout(sys.stderr):  # results alone are on stdout
            self._run: Any = trackio.init(
                project="softlabels",
                name=folder.resolve().name,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See Tracker.log."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """See Tracker.close."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}
"""Trackers by name."""


def new_tracker(name: str | Tracker, folder: Path, config: Mapping[str, Any], resumed: int) -> Tracker:
    """Return a tracker.

    Args:
        name: ``tensorboard``, ``wandb`` or ``trackio``, or a tracker, which is returned.
        folder: Run directory.
        config: Options of the run.
        resumed: Step that the run resumes from.

    Raises:
        InvalidArgument: The name is unknown, or its package is not installed.
    """
    if not isinstance(name, str):
        return name
    if name not in TRACKERS:
        raise InvalidArgument(f"tracker: unknown name, got {name!r}; expected one of {', '.join(TRACKERS)}")
    return TRACKERS[name](folder, config, resumed)


def missing_package(name: str, error: ImportError) -> InvalidArgument:
    """Return the error for a tracker whose package is not installed.

    Args:
        name: Name of the tracker.
        error: Error of the import.
    """
    return InvalidArgument(
        f"tracker {name}: the package is missing, got {error}; expected {name} to be installed. Run pip install {name}"
    )


def close_all(trackers: Sequence[Tracker]) -> None:
    """Close trackers.

    Args:
        trackers: The trackers.
    """
    for tracker in trackers:
        tracker.close()
