"""Encodings by target: ``auto:max-kl=0.05``, ``adaptive:bytes=40:d4:64``, ``threshold:ids=12``.

The parameter is found by bisection on a sample of the teacher's logits, to three digits. Fidelity and size are monotone
in it. Bytes are those of shards: labels, keys and containers. A store has other rows than the sample. A goal for bytes
is therefore met with a margin of 2 %, and a goal for the KL by the upper end of a 95 % confidence interval. The store
is measured again when it is sealed, and ``outcome`` compares the result with the goal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from operator import attrgetter
from typing import TypeGuard

from softlabels import encodings
from softlabels.encodings.families import counts
from softlabels.errors import InvalidArgument
from softlabels.planning.sample import FOLDS, Sample
from softlabels.planning.table import PlanRow, measure_row, plan, priors_for

FORMS = (
    "auto:max-kl=NATS, auto:budget=SIZE (such as 50GB), adaptive:kl=NATS, adaptive:bytes=N (both may be followed by "
    "the options of adaptive, :d4:64), threshold:ids=N, threshold:bytes=N, counts:ids=N, counts:bytes=N"
)
KL_GOALS = ("auto:max-kl", "adaptive:kl")
"""Goals for the KL."""
STEPS = 14
"""Steps of the bisection; its ends are a factor of 50,000 apart."""
LOWEST, HIGHEST = 2e-5, 0.9
MARGIN = 1.02
"""Factor on the labels of a sample, so that a store of other rows stays within its target."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


def is_target(spec: str | None) -> TypeGuard[str]:
    """Return True if a specification names a target instead of an encoding.

    Args:
        spec: Specification.

    Example:
        >>> is_target("auto:max-kl=0.05"), is_target("topk:4")
        (True, False)
    """
    return spec is not None and "=" in spec


def resolve(spec: str, sample: Sample) -> str:
    """Return the encoding that reaches a target on a sample, in the fewest bytes.

    Args:
        spec: The target.
        sample: Dense logits of some rows.

    Raises:
        InvalidArgument: The target is unknown, or no encoding reaches it; names the nearest value.
    """
    match = re.fullmatch(r"([a-z]+:[a-z-]+)=([^=:]+)(?::([^=]+))?", spec)
    name, value, options = (match[1], match[2], match[3]) if match else ("", "", None)
    if options is not None and not name.startswith("adaptive:"):
        raise InvalidArgument(f"target {spec!r}: unexpected options, got {options!r}; expected one of {FORMS}")
    if name == "auto:budget":
        return _within(sample, parse_size(value))
    if name in KL_GOALS:
        limit = _positive(spec, value)
        priors = priors_for(sample)
        default = ["d4", "d16", *([f"d4:{priors}", f"d16:{priors}"] if priors > 1 else [])]
        return _closest_kl(
            sample, limit, default if options is None else [options], only_adaptive=name != "auto:max-kl"
        )
    if name in {"adaptive:bytes", "threshold:bytes", "threshold:ids", "counts:bytes", "counts:ids"}:
        limit = _positive(spec, value)
        family, _, bounded = name.partition(":")
        if bounded == "bytes" and limit <= sample.key_bytes:
            raise InvalidArgument(
                f"target {spec!r}: keys alone take {sample.key_bytes:g} bytes per row, got {limit:g}; expected more"
            )
        measured = attrgetter("ids" if bounded == "ids" else "bytes_per_row")
        bound = limit if bounded == "ids" else _with_margin(limit, sample.key_bytes)
        best = _bisect(sample, family, lambda row: measured(row) <= bound, options=options or "d4", larger_fits=True)
        if best is None:
            least = _row(sample, family, HIGHEST, options or "d4")
            raise InvalidArgument(
                f"target {spec!r}: out of reach, the least {bounded} of {family} are {measured(least):.3g} on a sample "
                f"of these rows, got {limit:g}; expected more"
            )
        return best.encoding
    raise InvalidArgument(f"encoding {spec!r}: unknown target; expected one of {FORMS}")


def parse_size(text: str) -> int:
    """Return the bytes that a size names.

    Args:
        text: Size such as ``50GB``, ``1.5TiB``, ``200MB`` or ``1000``.

    Raises:
        InvalidArgument: The text is no size.

    Example:
        >>> parse_size("50GB"), parse_size("1KiB")
        (50000000000, 1024)
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([KMGTP]?)(i?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise InvalidArgument(f"invalid size, got {text!r}; expected 50GB, 1.5TiB or a number of bytes")
    prefix = match[2].upper()
    unit = 1024 ** ("KMGTP".index(prefix) + 1) if match[3] and prefix else UNITS[prefix]
    return int(float(match[1]) * unit)


def _within(sample: Sample, budget: int) -> str:
    """Return the most faithful encoding whose store takes at most ``budget`` bytes."""
    keys = round(sample.key_bytes * sample.items)
    if budget <= keys:
        raise InvalidArgument(
            f"budget: keys alone take {keys:,} bytes for {sample.rows:,} rows, got {budget:,} bytes; expected more"
        )
    table = plan(sample)
    unbiased = sample.classes >= encodings.MANY_CLASSES
    bound = _with_margin(budget, keys)
    fitting = [row for row in table.rows if row.bytes_total <= bound]
    families = ["threshold", *(["counts"] if priors_for(sample) > 1 else [])] if unbiased else ["adaptive"]
    for family in families:
        tuned = _bisect(sample, family, lambda row: row.bytes_total <= bound, larger_fits=True)
        if tuned is not None:
            fitting.append(tuned)
    fitting = [row for row in fitting if row.unbiased == unbiased] or fitting
    if not fitting:
        least = min(table.rows, key=lambda row: row.bytes_total)
        raise InvalidArgument(
            f"budget: out of reach for {sample.items:,} rows, got {budget:,} bytes; expected "
            f"{round(keys + MARGIN * (least.bytes_total - keys)):,} or more, which {least.encoding} takes"
        )
    return min(fitting, key=lambda row: row.distance).encoding


def _closest_kl(sample: Sample, limit: float, options: list[str], *, only_adaptive: bool) -> str:
    """Return the smallest labels whose KL is at most ``limit`` with 95 % confidence."""
    tuned = [
        _bisect(sample, "adaptive", lambda row: row.kl_bound <= limit, options=option, larger_fits=False)
        for option in options
    ]
    fitting = [row for row in tuned if row is not None]
    if not only_adaptive:
        fitting += [row for row in plan(sample).rows if row.kl_bound <= limit]
    if not fitting:
        raise InvalidArgument(
            f"KL: no {'adaptive ' if only_adaptive else ''}encoding comes within {limit:g} nats of this teacher on a "
            "sample of its rows, with 95 % confidence. Allow more, or use encoding='dense:f32'"
        )
    return min(fitting, key=lambda row: row.bytes_per_row).encoding


def _bisect(
    sample: Sample, family: str, fits: Callable[[PlanRow], bool], *, options: str = "d4", larger_fits: bool
) -> PlanRow | None:
    """Return the row of a family that just fits; None if none does.

    Args:
        sample: Dense logits of some rows.
        family: ``adaptive``, ``threshold`` or ``counts``; all list fewer classes for a larger parameter.
        fits: Returns whether a row is within the target.
        options: Options of adaptive after the parameter: how log-probabilities are stored, and tail priors.
        larger_fits: If True, the target bounds the size, so larger parameters fit; else it bounds the KL.
    """
    low, high = math.log(LOWEST), math.log(HIGHEST)
    best = None
    for _ in range(STEPS):
        middle = (low + high) / 2
        row = _row(sample, family, math.exp(middle), options)
        fitting = fits(row)
        best = row if fitting else best
        if fitting == larger_fits:
            high = middle
        else:
            low = middle
    return best


def _row(sample: Sample, family: str, value: float, options: str) -> PlanRow:
    """Return the encoding of a family with a parameter, measured."""
    specs = {
        "adaptive": f"adaptive:{value:.3g}:{options}",
        "threshold": f"threshold:{value:.3g}",
        "counts": _counts_spec(sample, weight=value),
    }
    return measure_row(sample, specs[family])[0]


def _counts_spec(sample: Sample, *, weight: float) -> str:
    """Return the encoding ``counts`` whose draws weigh about ``weight``, with as many codewords as can be fitted."""
    draws = min(counts.MAX_DITHERED, max(1, round(1 / weight)))
    fitted = max(2, min(counts.USUAL_PRIORS, len(sample.logits) * (FOLDS - 1) // FOLDS // 4))
    priors = fitted if sample.codebook is None else sample.codebook.priors.shape[1]
    return counts.Counts(draws, priors=priors).spec


def _with_margin(limit: float, keys: float) -> float:
    """Return the bytes that a sample may take, so that the store stays within ``limit``."""
    return keys + (limit - keys) / MARGIN


def _positive(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidArgument(f"target {spec!r}: invalid value, got {text!r}; expected a number above 0")
    return value
