"""Files in this user's cache: they can be made again, so one that cannot be written is no error."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from blake3 import blake3


def cache_directory() -> Path:
    """Return the directory of files that can be made again: $XDG_CACHE_HOME/softlabels, or ~/.cache/softlabels."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "softlabels"


def cached_path(folder: str, identity: str | Path, suffix: str) -> Path:
    """Return the path of the cached file about a place.

    Args:
        folder: Name of the folder of such files.
        identity: Text that only this place has, such as a directory or a URL.
        suffix: End of the file name, with the dot.
    """
    return cache_directory() / folder / f"{blake3(os.fsencode(identity)).hexdigest()[:32]}{suffix}"


def write_cached(path: Path, data: bytes | memoryview) -> bool:
    """Write a file beside its place and rename it; returns False, and leaves nothing, if the disk refuses.

    Args:
        path: Path of the file; its directory is made if it does not exist.
        data: Bytes of the file.
    """
    aside = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        return False
    return True
