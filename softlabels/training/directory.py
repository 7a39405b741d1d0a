"""Who owns a run directory: a new run, the same one going on, or somebody else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softlabels.errors import RunCorrupt, StoreConflict
from softlabels.models import RUN_FILE, WEIGHTS_FILE, read_run, write_atomically
from softlabels.training.checkpoint import FILE as CHECKPOINT_FILE
from softlabels.training.trainer import METRICS

STARTED = "started.json"
"""What a run that is not finished was told."""

OWN_FILES = {STARTED, CHECKPOINT_FILE, METRICS, RUN_FILE, WEIGHTS_FILE}


def claim(out: Path, information: Mapping[str, Any], name: str) -> bool:
    """Make sure ``out`` is ours: True where the run is finished, False where it is to be done or gone on with.

    Raises:
        StoreConflict: another run is there, or files that no run writes.
    """
    if (out / RUN_FILE).exists():
        if read_run(out).get("identity") == name:
            return True
        raise StoreConflict(f"{out} holds another run; name another directory with --out, or remove it")
    if out.exists() and not out.is_dir():
        raise StoreConflict(f"{out} is a file; name a directory for the run")
    entries = list(out.iterdir()) if out.exists() else []
    strangers = sorted(entry.name for entry in entries if entry.name.lstrip(".") not in OWN_FILES)
    started = out / STARTED
    if strangers and not started.exists():
        raise StoreConflict(f"{out} holds {', '.join(strangers[:3])} and no run; name another directory with --out")
    # Without a checkpoint, a run that was begun has nothing to lose.
    if (out / CHECKPOINT_FILE).exists() and _told(started) != name:
        raise StoreConflict(f"{out} holds another run that is not finished; name another directory, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(started, json.dumps({"identity": name, **information}, indent=2).encode())
    return False


def _told(started: Path) -> str | None:
    """The identity of an unfinished run; None where nothing says."""
    try:
        identity = json.loads(started.read_text())["identity"]
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise RunCorrupt(f"{started} is damaged ({error}); remove {started.parent} to train from the start") from error
    return str(identity)


def release(out: Path) -> None:
    """Drop what only an unfinished run needs."""
    for leftover in (STARTED, CHECKPOINT_FILE):
        (out / leftover).unlink(missing_ok=True)
