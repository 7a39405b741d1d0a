"""The cost of labels: the teacher once, requests, and keeping them, against running the teacher for each student."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from softlabels.errors import InvalidArgument

REQUESTS_PER_UNIT = 6
"""Requests that commit a unit in an object store: claim, shard, look at the descriptor, record, look-up, release."""

EXTRAS_REQUESTS = 256
"""Units that also store an extras file, at most about."""

GIGABYTE = 10**9


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The cost of a store of labels.

    Attributes:
        teacher_hours: Hours of one teacher for all rows; None if they are unknown.
        requests: Requests that write the store to an object store.
        label: Price of the teacher's hours; None without a price or hours.
        keep_month: Price of keeping the store for a month; None without a price.
        break_even_months: Months after which keeping has cost as much as labelling again; None without both prices.
        break_even_students: Students from which on labels cost less than running the teacher once for each of them,
            with one month of keeping; None without both prices.
    """

    teacher_hours: float | None
    requests: int
    label: float | None
    keep_month: float | None
    break_even_months: float | None
    break_even_students: int | None

    @classmethod
    def of(
        cls,
        *,
        size: int,
        units: int,
        seconds: float | None,
        price_hour: float | None = None,
        price_gb_month: float | None = None,
    ) -> Costs:
        """Return the cost of labels.

        Args:
            size: Bytes of all shards.
            units: Units of the store.
            seconds: Time of the teacher for all rows; None if unknown.
            price_hour: Price of an hour of the machine that runs the teacher; None if unknown.
            price_gb_month: Price of keeping 10^9 bytes for a month; None if unknown.

        Raises:
            InvalidArgument: A price is negative.

        Example:
            >>> costs = Costs.of(size=10**11, units=61_036, seconds=360_000, price_hour=2, price_gb_month=0.02)
            >>> costs.label, costs.keep_month, costs.break_even_students
            (200.0, 2.0, 2)
        """
        for name, price in (("price_hour", price_hour), ("price_gb_month", price_gb_month)):
            if price is not None and not 0 <= price < math.inf:
                raise InvalidArgument(f"{name}: got {price}; expected a price of 0 or more")
        hours = None if seconds is None else seconds / 3600
        label = None if price_hour is None or hours is None else hours * price_hour
        keep = None if price_gb_month is None else size / GIGABYTE * price_gb_month
        months, students = None, None
        if label is not None and keep is not None:
            months = label / keep if keep else None
            # n students cost n times the teacher, the labels once the teacher and a month: n label > label + keep.
            students = math.floor(1 + keep / label) + 1 if label else None
        return cls(
            teacher_hours=hours,
            requests=REQUESTS_PER_UNIT * units + min(EXTRAS_REQUESTS, units),
            label=label,
            keep_month=keep,
            break_even_months=months,
            break_even_students=students,
        )

    def to_json(self) -> dict[str, object]:
        """Return the costs as ``generate --dry-run --json`` and ``plan --json`` print them."""
        return asdict(self)
