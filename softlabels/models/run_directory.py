"""A run directory: what training wrote. ``run.json`` says what it is, ``model.safetensors`` holds the weights.

Reading one never runs code from it: JSON and safetensors only. Both files are written aside, synced and renamed, so a
run directory is either complete or has no ``run.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from softlabels.errors import DataNotFound, RunCorrupt

RUN_FILE = "run.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "softlabels-run"
VERSION = 1


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step: a reader, or a power cut, sees the old file or the whole new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_run(folder: Path, information: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the weights, then the description, whose presence makes the run complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, save_tensors({name: t.contiguous() for name, t in tensors.items()}))
    document = {"format": FORMAT, "version": VERSION, **information}
    write_atomically(folder / RUN_FILE, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def read_run(folder: Path) -> dict[str, Any]:
    """The description of a complete run.

    Raises:
        DataNotFound: no such directory, or none that training finished.
        RunCorrupt: the description is damaged or not one.
    """
    path = folder / RUN_FILE
    if not path.exists():
        what = "its training has not finished" if folder.is_dir() else "there is no such directory"
        raise DataNotFound(f"{folder} is no finished run ({what}); softlabels train-teacher or train-student makes one")
    try:
        document = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunCorrupt(f"{path} is damaged: {error}. Train again into another directory") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RunCorrupt(f"{path} does not describe a run of softlabels")
    if document.get("version") != VERSION:
        raise RunCorrupt(f"{path} has version {document.get('version')!r}; this softlabels reads {VERSION}: upgrade it")
    return document


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a run.

    Raises:
        RunCorrupt: missing, or not safetensors.
    """
    path = folder / WEIGHTS_FILE
    if not path.exists():
        raise RunCorrupt(f"{path} is missing: the run is not whole. Train again, or copy the directory again")
    try:
        return load_tensors(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        # The original error cannot be pickled, so it must not travel along as __cause__.
        raise RunCorrupt(
            f"{path} is not a safetensors file ({error}). Copy it again; a pickled checkpoint is never loaded: convert "
            "it with safetensors.torch.save_file where you trust it"
        ) from None
