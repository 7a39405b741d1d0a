"""Questions that name what was meant, for messages about a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a question for the end of a message, which names the most similar name; empty if none is similar.

    Args:
        name: Name that does not exist.
        known: Names that do.

    Example:
        >>> suggest("topc", ["dense", "topk"])
        ". Did you mean 'topk'?"
        >>> suggest("zebra", ["dense", "topk"])
        ''
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def suggest_path(path: str | Path, *, holding: str | None = None) -> str:
    """Return a question for the end of a message, which names an entry beside a path that is spelt alike.

    Args:
        path: Path that does not exist. Nothing is similar to a URL.
        holding: Name of a file that a directory must hold to be meant; None: any file or directory is.
    """
    path = Path(path)
    try:
        entries = [entry for entry in path.parent.iterdir() if holding is None or (entry / holding).is_file()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, [entry.name for entry in entries], n=1)
    return f". Did you mean {path.with_name(near[0])}?" if near else ""
