"""Recipe files: options of training commands in TOML, one table for each command.

[train-student]
store = "labels"
data = "digits"
student = "mlp:width=64"
lr = 0.003

[train-student.loss]
road = "kl"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softlabels.errors import DataNotFound, InvalidArgument
from softlabels.suggestions import suggest

COMMANDS = ("train-teacher", "train-student")
"""Commands that a file may have a table for."""

MAX_BYTES = 2**16
"""Size of a file; the time to parse nested names grows with its square."""


def read(path: Path, command: str, known: Sequence[str]) -> dict[str, Any]:
    """Return the options of a command in a recipe file.

    Args:
        path: The file.
        command: Name of the command.
        known: Keys that it has.

    Raises:
        DataNotFound: There is no such file.
        InvalidArgument: The file is no TOML, has no table of the command, or holds an unknown key; names the nearest.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        document = tomllib.loads(data.decode())
    except FileNotFoundError:
        raise DataNotFound(f"--config: no such file, got {path}; expected a recipe in TOML") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"--config {path}: cannot be read, got {error}; expected a recipe in TOML") from None
    for name in document:
        check_key(name, COMMANDS, f"--config {path}")
    table = document.get(command)
    if not isinstance(table, dict):
        raise InvalidArgument(
            f"--config {path}: no options of this command, got {', '.join(document) or 'an empty file'}; expected a "
            f"table [{command}]"
        )
    values = {name.replace("-", "_"): value for name, value in table.items()}
    for name in values:
        check_key(name, known, f"--config {path}")
    return values


def check_key(name: str, known: Sequence[str], subject: str) -> None:
    """Raise InvalidArgument for an unknown key; names the nearest known one.

    Args:
        name: The key.
        known: Known keys.
        subject: Where the key stands, for the message.

    Raises:
        InvalidArgument: The key is unknown.
    """
    if name in known:
        return
    hint = suggest(name, known) or f". Known are {', '.join(known)}"
    raise InvalidArgument(f"{subject}: unknown key, got {name!r}; expected a known one{hint}")


def to_toml(command: str, values: Mapping[str, Any]) -> str:
    """Return options of a command as a recipe file.

    Args:
        command: Name of the command.
        values: Options by key; None, False and empty ones are left out.

    Example:
        >>> print(to_toml("train-student", {"lr": 0.01, "loss": {"road": "kl"}, "steps": None}))
        [train-student]
        lr = 0.01
        <BLANKLINE>
        [train-student.loss]
        road = "kl"
        <BLANKLINE>
    """
    present = {key: value for key, value in values.items() if value is not None and value is not False and value != ()}
    lines = [f"[{command}]"]
    lines += [f"{key} = {value_to_toml(value)}" for key, value in present.items() if not isinstance(value, Mapping)]
    for key, value in present.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{command}.{key}]"]
            lines += [f"{_key(head)} = {value_to_toml(entry)}" for head, entry in value.items()]
    return "\n".join(lines) + "\n"


def value_to_toml(value: Any) -> str:
    """Return a value in TOML; None as ``not set``.

    Args:
        value: Text, number, truth value, list or mapping of these.
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_to_toml, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {value_to_toml(entry)}" for name, entry in value.items()) + "}"
    return json.dumps(str(value), ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isascii() and name.isidentifier() else json.dumps(name)
