"""Canonical JSON, and a strict reader of it.

One value has one spelling: keys sorted, no spaces, UTF-8, no NaN or infinity; so a digest of it means something. The
reader refuses what a well-meaning writer never produces: more bytes than the caller allows, keys twice, NaN, nesting
beyond the interpreter's stack, bytes that are not UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from blake3 import blake3


def to_bytes(value: Mapping[str, Any]) -> bytes:
    """The canonical spelling of ``value``.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Mapping[str, Any]) -> str:
    """BLAKE3 of the canonical spelling, hexadecimal."""
    return str(blake3(to_bytes(value)).hexdigest())


def parse(data: bytes, limit: int) -> dict[str, Any]:
    """The JSON object in ``data``.

    Raises:
        ValueError: not one, or one that this format forbids; says why.
    """
    if len(data) > limit:
        raise ValueError(f"{len(data):,} bytes, where at most {limit:,} are allowed")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        spelling = to_bytes(value) if isinstance(value, dict) else data
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, where an object is expected")  # noqa: TRY004  one error type
    if spelling != data:
        raise ValueError("not in its canonical spelling")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
