"""Encodings by what they are to reach: ``auto:max-kl=0.05``, ``adaptive:bytes=40:d4:64``, ``threshold:ids=12``.

The parameter is found by bisection on a sample of the teacher's logits, to three digits. Fidelity and size are monotone
in it, but a sample is a sample: what the store reaches is measured again when it is sealed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from operator import attrgetter
from typing import TypeGuard

from softlabels import encodings
from softlabels.errors import InvalidArgument
from softlabels.planning.sample import Sample
from softlabels.planning.table import PlanRow, measure_row, plan, priors_for

FORMS = (
    "auto:max-kl=NATS, auto:budget=SIZE (such as 50GB), adaptive:kl=NATS, adaptive:bytes=N (both may go on as adaptive "
    "does, :d4:64), threshold:ids=N, threshold:bytes=N"
)
STEPS = 14
"""Of the bisection; the ends are a factor of 50,000 apart."""
LOWEST, HIGHEST = 2e-5, 0.9
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


def is_target(spec: str | None) -> TypeGuard[str]:
    """Whether ``spec`` says what to reach rather than how."""
    return spec is not None and "=" in spec


def resolve(spec: str, sample: Sample) -> str:
    """The encoding that reaches what ``spec`` asks for, on ``sample``, in the fewest bytes.

    Raises:
        InvalidArgument: not a target, or one that no encoding reaches; says how near one comes.
    """
    match = re.fullmatch(r"([a-z]+:[a-z-]+)=([^=:]+)(?::([^=]+))?", spec)
    name, value, options = (match[1], match[2], match[3]) if match else ("", "", None)
    if options is not None and not name.startswith("adaptive:"):
        raise InvalidArgument(f"{spec!r} goes on after what is to be reached; that is one of {FORMS}")
    if name == "auto:budget":
        return _within(sample, parse_size(value))
    if name in {"auto:max-kl", "adaptive:kl"}:
        limit = _positive(spec, value)
        priors = priors_for(sample)
        usual = ["d4", "d16", *([f"d4:{priors}", f"d16:{priors}"] if priors > 1 else [])]
        kept = usual if options is None else [options]
        return _closest_kl(sample, limit, kept, only_adaptive=name == "adaptive:kl")
    if name in {"adaptive:bytes", "threshold:bytes", "threshold:ids"}:
        limit = _positive(spec, value)
        family, _, bounded = name.partition(":")
        measured = attrgetter("ids" if bounded == "ids" else "bytes_per_row")
        found = _bisect(
            sample, family, lambda row: measured(row) <= limit, kept=options or "d4", larger_is_smaller=True
        )
        if found is None:
            raise InvalidArgument(f"no {family} labels stay within {bounded}={limit:g} on a sample of these rows")
        return found.encoding
    raise InvalidArgument(f"unknown encoding {spec!r}; what an encoding is to reach is one of {FORMS}")


def parse_size(text: str) -> int:
    """Bytes in ``50GB``, ``1.5TiB``, ``200MB`` or ``1000``.

    Raises:
        InvalidArgument: not a size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([KMGTP]?)(i?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise InvalidArgument(f"{text!r} is no size; write 50GB, 1.5TiB or a number of bytes")
    prefix = match[2].upper()
    unit = 1024 ** ("KMGTP".index(prefix) + 1) if match[3] and prefix else UNITS[prefix]
    return int(float(match[1]) * unit)


def _within(sample: Sample, budget: int) -> str:
    """The most faithful encoding whose store stays within ``budget`` bytes."""
    table = plan(sample)
    unbiased = sample.classes >= encodings.MANY_CLASSES
    fitting = [row for row in table.rows if row.bytes_total <= budget]
    family = "threshold" if unbiased else "adaptive"
    tuned = _bisect(sample, family, lambda row: row.bytes_total <= budget, larger_is_smaller=True)
    if tuned is not None:
        fitting.append(tuned)
    fitting = [row for row in fitting if row.unbiased == unbiased] or fitting
    if not fitting:
        least = min(table.rows, key=lambda row: row.bytes_total)
        raise InvalidArgument(
            f"no encoding keeps {sample.items:,} rows in {budget:,} bytes; the smallest, {least.encoding}, takes about "
            f"{least.bytes_total:,}"
        )
    return min(fitting, key=lambda row: row.distance).encoding


def _closest_kl(sample: Sample, limit: float, kept: list[str], *, only_adaptive: bool) -> str:
    """The smallest labels whose KL is at most ``limit``."""
    tuned = [
        _bisect(sample, "adaptive", lambda row: row.distance <= limit, kept=options, larger_is_smaller=False)
        for options in kept
    ]
    fitting = [row for row in tuned if row is not None]
    if not only_adaptive:
        fitting += [row for row in plan(sample).rows if row.kl is not None and row.kl <= limit]
    if not fitting:
        raise InvalidArgument(
            f"no {'adaptive ' if only_adaptive else ''}encoding comes within {limit:g} nats of this teacher on a "
            "sample of its rows; allow more, or use --encoding dense:f32"
        )
    return min(fitting, key=lambda row: row.bytes_per_row).encoding


def _bisect(
    sample: Sample, family: str, fits: Callable[[PlanRow], bool], *, kept: str = "d4", larger_is_smaller: bool
) -> PlanRow | None:
    """The row of a family that just fits.

    Args:
        sample: to measure on.
        family: ``adaptive`` or ``threshold``; both list less for a larger parameter.
        fits: whether a row is within the target.
        kept: the rest of adaptive's specification: how log-probabilities are kept, and how many tail priors.
        larger_is_smaller: the target bounds size, so larger parameters fit; else it bounds the KL, so smaller ones do.
    """

    def at(value: float) -> PlanRow:
        return measure_row(
            sample, f"adaptive:{value:.3g}:{kept}" if family == "adaptive" else f"threshold:{value:.3g}"
        )[0]

    low, high = math.log(LOWEST), math.log(HIGHEST)
    best = None
    for _ in range(STEPS):
        middle = (low + high) / 2
        row = at(math.exp(middle))
        fitting = fits(row)
        best = row if fitting else best
        if fitting == larger_is_smaller:
            high = middle
        else:
            low = middle
    return best


def _positive(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidArgument(f"{text!r} in {spec!r} is no number above 0")
    return value
