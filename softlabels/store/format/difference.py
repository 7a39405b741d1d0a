"""The most telling difference of two documents, worded for a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORDER = (
    "teacher",
    "data",
    "inputs",
    "heads",
    "kind",
    "shape",
    "classes",
    "encoding",
    "temperatures",
    "shard",
    "seed",
    "rows",
)
"""Names of settings by what they tell: other labels first, then the layout that follows from them."""


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the most telling setting in which two documents differ, and the names of the others.

    Args:
        before: JSON object that exists.
        after: JSON object that was expected.

    Example:
        >>> heads = {"heads": {"logits": {"encoding": "topk:8:f16", "classes": 10}}}
        >>> difference(heads, {"heads": {"logits": {"encoding": "topk:4:f16", "classes": 10}}})
        'its heads.logits.encoding is topk:8:f16, here it would be topk:4:f16'
        >>> difference({"rows": 5, "seed": 0}, {"rows": 6, "seed": 1})
        'its seed is 0, here it would be 1; other differences: rows'
    """
    path: list[str] = []
    others: list[str] = []
    old_value: Any = before
    new_value: Any = after
    while isinstance(old_value, Mapping) and isinstance(new_value, Mapping):
        old, new = dict(old_value), dict(new_value)
        names = sorted((name for name in new | old if old.get(name) != new.get(name)), key=_rank)
        if not names:
            break
        others += [".".join([*path, str(name)]) for name in names[1:]]
        path.append(str(names[0]))
        old_value, new_value = old.get(names[0]), new.get(names[0])
    first = f"its {'.'.join(path)} is {_shown(old_value)}, here it would be {_shown(new_value)}"
    return f"{first}; other differences: {', '.join(sorted(others))}" if others else first


def _rank(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _shown(value: Any) -> str:
    """Return a setting as a message shows it."""
    if value is None:
        return "absent"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in value.items() if entry is not None) or "empty"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "empty"
    return str(value)[:100]
