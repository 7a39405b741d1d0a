"""Rows of a unit that have no labels, because the data could not be read or the teacher failed on them.

They stand in the unit's record with their number, their key and the reason. Row numbers of the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from softlabels.store.format.fields import Fields, check_integer

MAX_SKIPPED = 1024
"""Skipped rows of a unit, so that a record stays within its bytes."""

MAX_REASONS = 16
"""Distinct reasons in a record; further ones become ``OTHER``."""

MAX_REASON_LENGTH = 200
"""Characters of a reason."""

OTHER = "another reason"
KEY_DIGITS = 32


class SkippedRow(NamedTuple):
    """A row without labels.

    Attributes:
        row: Number of the row within its unit, or within the store where a function says so.
        key: Key of the row, 32 hexadecimal digits.
        reason: Why it has no labels.
    """

    row: int
    key: str
    reason: str


def to_json(skipped: Sequence[SkippedRow]) -> dict[str, Any]:
    """Return skipped rows as a record holds them.

    Args:
        skipped: Rows of the unit, ascending.

    Example:
        >>> to_json([SkippedRow(3, "ab" * 16, "truncated"), SkippedRow(5, "cd" * 16, "truncated")])["rows"]
        [[3, 0], [5, 0]]
    """
    reasons: list[str] = []
    numbers = []
    for entry in skipped:
        reason = entry.reason[:MAX_REASON_LENGTH]
        if reason not in reasons and len(reasons) >= MAX_REASONS - 1:
            reason = OTHER
        if reason not in reasons:
            reasons.append(reason)
        numbers.append([entry.row, reasons.index(reason)])
    return {"rows": numbers, "reasons": reasons, "keys": "".join(entry.key for entry in skipped)}


def from_fields(fields: Fields, unit_rows: int) -> tuple[SkippedRow, ...]:
    """Return the skipped rows in an untrusted record.

    Args:
        fields: The section of the record.
        unit_rows: Rows of the unit, with those that were skipped.

    Raises:
        ValueError: Rows that are not ascending rows of the unit, or without a key or a reason.
    """
    reasons = fields.texts("reasons", MAX_REASONS)
    pairs = fields.items("rows", MAX_SKIPPED)
    keys = fields.text("keys")
    if not pairs or len(keys) != KEY_DIGITS * len(pairs) or not set(keys) <= set("0123456789abcdef"):
        raise ValueError(f"{fields.path('keys')}: got {len(keys)} digits for {len(pairs)} rows; expected 32 each")
    if any(len(reason) > MAX_REASON_LENGTH for reason in reasons):
        raise ValueError(f"{fields.path('reasons')}: a reason of more than {MAX_REASON_LENGTH} characters")
    skipped = []
    last = -1
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{fields.path('rows')}: expected pairs of a row and the number of a reason")
        last = check_integer(fields.path("rows"), pair[0], last + 1, unit_rows - 1)
        reason = reasons[check_integer(fields.path("rows"), pair[1], 0, len(reasons) - 1)]
        skipped.append(SkippedRow(last, keys[KEY_DIGITS * index : KEY_DIGITS * (index + 1)], reason))
    return tuple(skipped)
