"""Directory of this user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Where softlabels keeps what it can do without: $XDG_CACHE_HOME/softlabels, by default ~/.cache/softlabels."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "softlabels"
