"""The cost of labels: the teacher once, requests, and keeping them, against running the teacher for each student."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from softlabels.errors import InvalidArgument
from softlabels.generation.results import Estimate

REQUESTS_PER_UNIT = 6
"""Requests that commit a unit in an object store: claim, shard, look at the descriptor, record, look-up, release."""

EXTRAS_REQUESTS = 256
"""Units that also store an extras file, at most about."""

GIGABYTE = 10**9


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The cost of a store of labels.

    Attributes:
        teacher_hours: Hours of one teacher for all rows.
        requests: Requests that write the store to an object store.
        label: Price of the teacher's hours; None without a price.
        keep_month: Price of keeping the store for a month; None without a price.
        break_even_months: Months after which keeping has cost as much as labelling again; None without both prices.
        break_even_students: Students from which on labels cost less than running the teacher once for each of them,
            with one month of keeping; None without both prices.
    """

    teacher_hours: float
    requests: int
    label: float | None
    keep_month: float | None
    break_even_months: float | None
    break_even_students: int | None

    @classmethod
    def of(cls, estimate: Estimate, *, price_hour: float | None, price_gb_month: float | None) -> Costs:
        """Return the cost of an estimate.

        Args:
            estimate: The estimate.
            price_hour: Price of an hour of the machine that runs the teacher; None if unknown.
            price_gb_month: Price of keeping 10^9 bytes for a month; None if unknown.

        Raises:
            InvalidArgument: A price is negative.

        Example:
            >>> estimate = Estimate(rows=10**9, units=61_036, unit_rows=16_384, encoding="topk:32", encodings={},
            ...                     bytes=10**11, bytes_per_row=100, seconds=360_000, rows_per_second=2_778)
            >>> costs = Costs.of(estimate, price_hour=2, price_gb_month=0.02)
            >>> costs.label, costs.keep_month, costs.break_even_students
            (200.0, 2.0, 2)
        """
        for name, price in (("price_hour", price_hour), ("price_gb_month", price_gb_month)):
            if price is not None and not 0 <= price < math.inf:
                raise InvalidArgument(f"{name}: got {price}; expected a price of 0 or more")
        hours = estimate.seconds / 3600
        label = None if price_hour is None else hours * price_hour
        keep = None if price_gb_month is None else estimate.bytes / GIGABYTE * price_gb_month
        months, students = None, None
        if label is not None and keep is not None:
            months = label / keep if keep else None
            # n students cost n times the teacher, the labels once the teacher and a month: n label > label + keep.
            students = math.floor(1 + keep / label) + 1 if label else None
        return cls(
            teacher_hours=hours,
            requests=REQUESTS_PER_UNIT * estimate.units + min(EXTRAS_REQUESTS, estimate.units),
            label=label,
            keep_month=keep,
            break_even_months=months,
            break_even_students=students,
        )

    def to_json(self) -> dict[str, object]:
        """Return the costs as ``generate --dry-run --json`` prints them."""
        return asdict(self)
