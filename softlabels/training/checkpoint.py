"""Checkpoints: everything that a run needs to resume exactly, in one safetensors file.

Weights, moments, averages and the best weights so far are tensors. The step, the states of scaler and early stopping,
the identity of the run and a digest of everything are in the header, so a changed bit anywhere is refused. On a CPU, a
run that was killed and resumed ends with the same bits as one that was not.

The newest checkpoint is ``checkpoint.safetensors``. Older ones that are to be preserved are ``checkpoint-STEP``; if
the newest is deleted, a run resumes from the next older one.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from softlabels.errors import RunCorrupt, StoreConflict
from softlabels.models.digest import digest_of, state_of
from softlabels.models.run_directory import MAX_HEADER_BYTES, tensors_from_bytes, tensors_to_bytes
from softlabels.models.run_files import delete_file, read_file, storage_errors, write_file
from softlabels.training.state import TrainingState

CHECKPOINT_FILE = "checkpoint.safetensors"
OLDER_NAME = re.compile(r"checkpoint-(\d{12})\.safetensors")
METADATA = "softlabels"
COPIES = 5
"""Tensors the size of the weights that a checkpoint may hold: weights, two moments, the average and the best."""


def write_checkpoint(folder: Path, state: TrainingState, *, identity: str, keep: int = 1) -> None:
    """Add a checkpoint of a run and delete the oldest ones.

    Args:
        folder: Run directory.
        state: State of the run.
        identity: Identity of the run.
        keep: Number of checkpoints to preserve, the newest included.

    Raises:
        StorageFailed: The file cannot be written; the last checkpoint is still there.
    """
    tensors = state.tensors()
    header = state.numbers() | {"identity": identity}
    metadata = json.dumps(header | {"digest": digest_of(header, tensors)}, sort_keys=True)
    data = tensors_to_bytes(tensors, {METADATA: metadata})
    if keep > 1:
        _name_older(folder)
    write_file(folder, CHECKPOINT_FILE, data)
    older = older_checkpoints(folder)
    for name in older[: len(older) - keep + 1]:
        delete_file(folder, name)


def read_checkpoint(folder: Path, state: TrainingState, *, identity: str) -> int:
    """Restore the last checkpoint of a run.

    Args:
        folder: Run directory.
        state: State to restore, in place.
        identity: Identity of the run.

    Returns:
        Number of steps that are done; 0 if there is no checkpoint.

    Raises:
        RunCorrupt: The checkpoint is damaged.
        StoreConflict: The checkpoint is of another run.
    """
    return load_checkpoint(read_checkpoint_file(folder, state), state, folder=folder, identity=identity)


def read_checkpoint_file(folder: Path, state: TrainingState) -> tuple[str, bytes] | None:
    """Return the name and the bytes of the last checkpoint; None if there is none.

    Args:
        folder: Run directory.
        state: State of the run, which bounds the size of the file.

    Raises:
        RunCorrupt: The file is larger than the state can be, or not a regular file.
    """
    size = sum(value.nbytes for value in state_of(state.module).values())
    for name in (CHECKPOINT_FILE, *reversed(older_checkpoints(folder))):
        with suppress(FileNotFoundError):
            return name, read_file(folder, name, COPIES * size + MAX_HEADER_BYTES)
    return None


def load_checkpoint(file: tuple[str, bytes] | None, state: TrainingState, *, folder: Path, identity: str) -> int:
    """Restore a checkpoint from its bytes.

    Args:
        file: Name and bytes of the file; None: there is none.
        state: State to restore, in place.
        folder: Run directory.
        identity: Identity of the run.

    Returns:
        Number of steps that are done; 0 without a file.

    Raises:
        RunCorrupt: The checkpoint is damaged.
        StoreConflict: The checkpoint is of another run.
    """
    if file is None:
        return 0
    name, data = file
    path = folder / name
    tensors = tensors_from_bytes(path, data)
    try:
        header = _header(data)
        digest = header.pop("digest")
        if set(header) != {*state.numbers(), "identity"} or digest_of(header, tensors) != digest:
            raise ValueError("its digest does not match its content")
        if header["identity"] != identity:
            raise StoreConflict(
                f"{path}: a checkpoint of another run, got identity {header['identity'][:16]}; "
                f"expected {identity[:16]}. Name another directory with out=, or delete the file"
            )
        state.load(header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        older = [entry for entry in older_checkpoints(folder) if entry != name]
        advice = f"resume from {older[-1]}" if older else "train from the start"
        raise RunCorrupt(
            f"{path}: the checkpoint is damaged, got {type(error).__name__}: {error}; expected what training wrote. "
            f"Delete the file to {advice}"
        ) from None
    return state.step


def older_checkpoints(folder: Path) -> list[str]:
    """Return the names of the older checkpoints of a run, the oldest first.

    Args:
        folder: Run directory.
    """
    return sorted(entry.name for entry in folder.iterdir() if OLDER_NAME.fullmatch(entry.name))


def saved_step(folder: Path) -> int:
    """Return the step of the newest checkpoint by its header, unchecked; 0 if there is none.

    Args:
        folder: Run directory.
    """
    try:
        # Without O_NONBLOCK a FIFO would wait for its other end.
        with os.fdopen(os.open(folder / CHECKPOINT_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        return int(json.loads(header["__metadata__"][METADATA])["step"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0


def _name_older(folder: Path) -> None:
    """Give the newest checkpoint a second name, under which it outlasts its replacement."""
    step = saved_step(folder)
    if step == 0:
        return
    path = folder / f"checkpoint-{step:012d}.safetensors"
    with storage_errors(path), suppress(FileExistsError):
        os.link(folder / CHECKPOINT_FILE, path, follow_symlinks=False)


def _header(data: bytes) -> dict[str, Any]:
    """Return the metadata of a safetensors file that was parsed already."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])["__metadata__"]
    if set(header) != {METADATA}:
        raise ValueError("its metadata is not that of a checkpoint")
    value = json.loads(header[METADATA])
    if not isinstance(value, dict) or json.dumps(value, sort_keys=True) != header[METADATA]:
        raise ValueError("its metadata is not that of a checkpoint")
    return value
