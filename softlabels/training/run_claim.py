"""Ownership of a run directory: a new run, the same run resumed or finished, or somebody else's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softlabels.errors import RunCorrupt, StoreConflict
from softlabels.models import RUN_FILE, WEIGHTS_FILE, read_run
from softlabels.models.run_directory import MAX_RUN_BYTES, record_from_bytes, record_to_bytes
from softlabels.models.run_files import delete_file, locked, make_folder, read_file, temporary_name, write_file
from softlabels.models.run_record import RunRecord
from softlabels.text.tokenizer_files import FILE as TOKENIZER_FILE
from softlabels.training.checkpoint import CHECKPOINT_FILE, older_checkpoints
from softlabels.training.metrics import METRICS_FILE

STARTED_FILE = "started.json"
"""Description of a run that has not finished."""

RECIPE_FILE = "recipe.toml"
"""Options of the command, as a recipe file."""

OWN_FILES = (STARTED_FILE, CHECKPOINT_FILE, METRICS_FILE, RUN_FILE, WEIGHTS_FILE, TOKENIZER_FILE, RECIPE_FILE)
OWN_FOLDERS = ("tensorboard", "wandb")
"""Directories of trackers."""


@contextmanager
def claimed(folder: Path, record: RunRecord) -> Iterator[bool]:
    """Hold a run directory for one run.

    Args:
        folder: Run directory; created if it does not exist.
        record: Description of the run.

    Yields:
        True if the run has finished already.

    Raises:
        StoreConflict: The directory holds another run, or files that no run writes.
        StoreBusy: Another process trains into the directory.
        RunCorrupt: The description in the directory is damaged.
        StorageFailed: The directory cannot be written.
    """
    make_folder(folder)
    with locked(folder):
        finished = _is_finished(folder, record)
        if finished:
            release(folder)
        else:
            _start(folder, record)
        yield finished


def release(folder: Path) -> None:
    """Delete what only an unfinished run needs.

    Args:
        folder: Run directory.

    Raises:
        StorageFailed: A file cannot be deleted.
    """
    for name in (CHECKPOINT_FILE, STARTED_FILE, *map(temporary_name, OWN_FILES)):
        delete_file(folder, name)


def _is_finished(folder: Path, record: RunRecord) -> bool:
    if not _exists(folder, RUN_FILE):
        return False
    other = read_run(folder)
    if other.identity == record.identity:
        return True
    raise StoreConflict(
        f"{folder}: holds another run: {record.difference(other)}; expected the same run or an empty directory. "
        "Name another directory with out=, or remove it"
    )


def _start(folder: Path, record: RunRecord) -> None:
    own = {*OWN_FILES, *map(temporary_name, OWN_FILES), *OWN_FOLDERS, *older_checkpoints(folder)}
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in own)
    if others and not _exists(folder, STARTED_FILE):
        raise StoreConflict(
            f"{folder}: holds other files, got {', '.join(others[:3])}; expected a run or an empty directory. "
            "Name another directory with out="
        )
    # Without a checkpoint, nothing of an unfinished run would be lost.
    if _exists(folder, CHECKPOINT_FILE) or older_checkpoints(folder):
        _check_started(folder, record)
    write_file(folder, STARTED_FILE, record_to_bytes(record))


def _check_started(folder: Path, record: RunRecord) -> None:
    path = folder / STARTED_FILE
    try:
        other = record_from_bytes(path, read_file(folder, STARTED_FILE, MAX_RUN_BYTES))
    except FileNotFoundError:
        raise RunCorrupt(
            f"{path}: missing, got a checkpoint of an unknown run; expected its description. Remove {folder} to train "
            "from the start"
        ) from None
    if other.identity != record.identity:
        raise StoreConflict(
            f"{folder}: holds another run that has not finished: {record.difference(other)}; expected the same "
            "run. Name another directory with out=, or remove it"
        )


def _exists(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_symlink() or path.exists()
