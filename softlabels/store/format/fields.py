"""Typed access to the fields of an untrusted JSON object.

Every accessor returns a value of the declared type and range or raises ValueError with the path of the field, the value
found there and the expectation. Parsers of documents therefore need no ``except TypeError``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

HASH = re.compile(r"[0-9a-f]{64}")
MAX_TEXT = 2**16
"""Characters of a text."""
SHOWN = 60
"""Characters of a wrong value that a message shows."""


class Fields:
    """The fields of one JSON object.

    Args:
        value: Parsed JSON value; must be an object.
        path: Path of the object within its document, for messages; empty for the document itself.

    Raises:
        ValueError: ``value`` is not an object.

    Example:
        >>> shard = Fields({"size": 9, "codec": "lz4"}, "shard")
        >>> shard.integer("size", 0, 100)
        9
        >>> shard.text("codec")
        'lz4'
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise refusal(path or "the document", value, "an object")
        self._value: dict[str, Any] = value
        self._path = path

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def path(self, name: str) -> str:
        """Return the path of a field within the document."""
        return f"{self._path}.{name}" if self._path else name

    def get(self, name: str) -> Any:
        """Return a field of any type; None if it is absent or null."""
        return self._value.get(name)

    def text(self, name: str) -> str:
        """Return a text of at most 65,536 characters.

        Raises:
            ValueError: The field is missing or of another type; names it.
        """
        value = self._required(name)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise refusal(self.path(name), value, f"a text of at most {MAX_TEXT:,} characters")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a text; None if the field is absent or null."""
        return None if self.get(name) is None else self.text(name)

    def integer(self, name: str, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included.

        Raises:
            ValueError: The field is missing, of another type or out of range; names it.
        """
        return check_integer(self.path(name), self._required(name), low, high)

    def hash(self, name: str) -> str:
        """Return 64 hexadecimal digits.

        Raises:
            ValueError: The field is missing or of another form; names it.
        """
        value = self._required(name)
        if not isinstance(value, str) or not HASH.fullmatch(value):
            raise refusal(self.path(name), value, "a BLAKE3 of 64 hexadecimal digits")
        return value

    def optional_hash(self, name: str) -> str | None:
        """Return 64 hexadecimal digits; None if the field is absent or null."""
        return None if self.get(name) is None else self.hash(name)

    def object(self, name: str) -> Fields:
        """Return the fields of an object within this one."""
        return Fields(self._required(name), self.path(name))

    def items(self, name: str, limit: int) -> list[Any]:
        """Return a list of at most ``limit`` items of any type.

        Raises:
            ValueError: The field is missing, of another type or too long; names it.
        """
        value = self._required(name)
        if not isinstance(value, list) or len(value) > limit:
            raise refusal(self.path(name), value, f"a list of at most {limit:,} items")
        return value

    def texts(self, name: str, limit: int) -> tuple[str, ...]:
        """Return a list of texts; an empty one if the field is absent or null.

        Raises:
            ValueError: The field is of another type or too long; names it.
        """
        value = [] if self.get(name) is None else self.items(name, limit)
        for item in value:
            if not isinstance(item, str) or len(item) > MAX_TEXT:
                raise refusal(self.path(name), item, "texts")
        return tuple(value)

    def _required(self, name: str) -> Any:
        if name not in self._value:
            raise ValueError(f"{self.path(name)}: it is missing")
        return self._value[name]


def check_integer(path: str, value: object, low: int, high: int) -> int:
    """Return ``value`` if it is an integer from ``low`` to ``high``.

    Raises:
        ValueError: Another type, or out of range; names ``path``.
    """
    if type(value) is not int or not low <= value <= high:
        raise refusal(path, value, f"an integer from {low:,} to {high:,}")
    return value


def check_number(path: str, value: object) -> float:
    """Return ``value`` as a float if it is a finite number.

    Raises:
        ValueError: Another type, or beyond the range of float64; names ``path``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(path, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise refusal(path, value, "a finite number") from None


def refusal(path: str, value: object, expected: str) -> ValueError:
    """Return the ValueError for a field with a wrong value; the value is shown in at most 60 characters."""
    if isinstance(value, dict | list):
        shown = f"a JSON {type(value).__name__} of {len(value):,} items"
    else:
        # The repr of an integer of many digits is an error of its own.
        shown = "a large integer" if type(value) is int and value.bit_length() > 200 else repr(value)
    shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + "..."
    return ValueError(f"{path}: got {shown}; expected {expected}")
