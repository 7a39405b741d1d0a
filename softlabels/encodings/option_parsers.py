"""Parsers of the options in an encoding specification."""

from __future__ import annotations

from collections.abc import Sequence

MIN_PROBABILITY = 2e-5
"""Lower bound of a probability threshold: a row lists at most 1 / MIN_PROBABILITY classes, which 16 bits count."""


def require_count(options: Sequence[str], low: int, high: int) -> None:
    """Raise ValueError unless there are ``low`` to ``high`` options."""
    if not low <= len(options) <= high:
        raise ValueError(f"got {len(options)} options")


def choice(text: str, names: Sequence[str]) -> str:
    """Return ``text``.

    Raises:
        ValueError: It is none of ``names``.
    """
    if text not in names:
        raise ValueError(f"got {text!r}; expected {'|'.join(names)}")
    return text


def integer(text: str, low: int, high: int) -> int:
    """Return the integer that ``text`` spells in decimal digits.

    Raises:
        ValueError: It is none from ``low`` to ``high``.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
        raise ValueError(f"got {text!r}; expected a whole number from {low} to {high}")
    return int(text)


def probability(text: str) -> float:
    """Return the probability that ``text`` spells, rounded to six digits.

    Raises:
        ValueError: It is none from MIN_PROBABILITY to 1.
    """
    value = float(text)
    if not MIN_PROBABILITY <= value <= 1:
        raise ValueError(f"got {text!r}; expected a probability from {MIN_PROBABILITY:g} to 1")
    return float(f"{value:g}")
