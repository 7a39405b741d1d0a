"""First difference of two documents, worded for a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the first setting in which two documents differ.

    Args:
        before: JSON object that exists.
        after: JSON object that was expected.

    Example:
        >>> heads = {"heads": {"logits": {"encoding": "topk:8:f16", "classes": 10}}}
        >>> difference(heads, {"heads": {"logits": {"encoding": "topk:4:f16", "classes": 10}}})
        'its heads.logits.encoding is topk:8:f16, here it would be topk:4:f16'
    """
    path: list[str] = []
    old_value: Any = before
    new_value: Any = after
    while isinstance(old_value, Mapping) and isinstance(new_value, Mapping):
        old, new = dict(old_value), dict(new_value)
        names = [name for name in new | old if old.get(name) != new.get(name)]
        if not names:
            break
        path.append(str(names[0]))
        old_value, new_value = old.get(names[0]), new.get(names[0])
    return f"its {'.'.join(path)} is {_shown(old_value)}, here it would be {_shown(new_value)}"


def _shown(value: Any) -> str:
    """Return a setting as a message shows it."""
    if value is None:
        return "absent"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in value.items() if entry is not None) or "empty"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "empty"
    return str(value)[:100]
