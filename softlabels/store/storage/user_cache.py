"""Directory of this user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return the directory of files that can be made again: $XDG_CACHE_HOME/softlabels, or ~/.cache/softlabels."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "softlabels"
