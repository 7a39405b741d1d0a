"""Canonical JSON and a strict reader of it.

One value has one spelling: sorted keys, no spaces, UTF-8, no NaN and no infinity. A digest of the bytes therefore
identifies the value. The reader takes time linear in the size of the document and refuses what no writer produces:
more bytes than its limit, duplicate keys, NaN, more than 32 levels of nesting, bytes that are not UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from blake3 import blake3

MAX_DEPTH = 32
"""Levels of objects and lists; the documents of a store have six."""


def to_bytes(value: Mapping[str, Any]) -> bytes:
    """Return the canonical spelling of ``value``.

    Raises:
        ValueError: NaN or an infinity in ``value``.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Mapping[str, Any]) -> str:
    """Return the BLAKE3 of the canonical spelling, 64 hexadecimal digits."""
    return str(blake3(to_bytes(value)).hexdigest())


def parse(data: bytes, limit: int) -> dict[str, Any]:
    """Return the JSON object in ``data``.

    Args:
        data: Bytes of the document.
        limit: Size in bytes above which the document is refused.

    Raises:
        ValueError: ``data`` is not the canonical spelling of a JSON object; says why.
    """
    if len(data) > limit:
        raise ValueError(f"a document of {len(data):,} bytes; expected at most {limit:,}")
    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested too deeply; expected at most {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise ValueError(f"got a JSON {type(value).__name__}, where an object is expected")  # noqa: TRY004  one type
    _check_depth(value)
    if to_bytes(value) != data:
        raise ValueError("not in its canonical spelling")
    return value


def parse_signed(data: bytes, limit: int) -> dict[str, Any]:
    """Return the JSON object in ``data``, checked against the digest of itself in its key ``digest``.

    Raises:
        ValueError: As for ``parse``, or the digest does not match.
    """
    value = parse(data, limit)
    body = {name: item for name, item in value.items() if name != "digest"}
    if digest(body) != value.get("digest"):
        raise ValueError("its digest does not match its content")
    return value


def sign(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``body`` with its digest under the key ``digest``."""
    return {**body, "digest": digest(body)}


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs; an ``object_pairs_hook`` for the json module.

    Raises:
        ValueError: A key stands there twice.
    """
    value: dict[str, Any] = {}
    for name, item in pairs:
        if name in value:
            raise ValueError(f"the key {name[:64]!r} stands there twice")
        value[name] = item
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _check_depth(value: dict[str, Any]) -> None:
    """Raise ValueError for a value that is nested too deeply, without recursion."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested too deeply; expected at most {MAX_DEPTH} levels")
