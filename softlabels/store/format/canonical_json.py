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

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def to_bytes(value: Mapping[str, Any]) -> bytes:
    """Return the canonical spelling of ``value``.

    Raises:
        ValueError: NaN or an infinity in ``value``.
    """
    return _ENCODER.encode(value).encode()


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
    value = _parse_canonical(data)
    if value is None:
        _explain(data)
    return value


def _parse_canonical(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in ``data``; None if this is not its canonical spelling.

    A value that is spelled as ``data`` has no duplicate keys and no NaN, so only its depth remains to be checked.
    """
    try:
        value: object = json.loads(data.decode())
        if not isinstance(value, dict) or to_bytes(value) != data:
            return None
    except (RecursionError, ValueError):
        return None
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _check_depth(value)
    return value


def _explain(data: bytes) -> NoReturn:
    """Raise ValueError that says why a document is not the canonical spelling of an object."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested too deeply; expected at most {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise ValueError(f"got a JSON {type(value).__name__}, where an object is expected")  # noqa: TRY004  one type
    _check_depth(value)
    to_bytes(value)
    raise ValueError("not in its canonical spelling")


def parse_signed(data: bytes, limit: int) -> dict[str, Any]:
    """Return the JSON object in ``data``, checked against the digest of itself in its key ``digest``.

    Raises:
        ValueError: As for ``parse``, or the digest does not match.
    """
    value = parse(data, limit)
    if has_digest(data, str(value.get("digest"))):
        return value
    body = {name: item for name, item in value.items() if name != "digest"}
    if digest(body) != value.get("digest"):
        raise ValueError("its digest does not match its content")
    return value


def has_digest(data: bytes, digest: str) -> bool:
    """Return True if a document in its canonical spelling holds a digest of itself, which is this one.

    The digest is cut out of the bytes, which are not parsed. If other bytes than those of the digest are cut, or none,
    the rest has another digest. False therefore means that the document must be parsed to be sure.

    Args:
        data: Bytes of the document.
        digest: The digest, 64 hexadecimal digits.

    Example:
        >>> has_digest(to_bytes(sign({"unit": 3})), sign({"unit": 3})["digest"])
        True
    """
    entry = f'"digest":"{digest}",'.encode(errors="replace")
    return entry in data and str(blake3(data.replace(entry, b"", 1)).hexdigest()) == digest


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
