"""Encodings by name: ``topk:32:q8`` and the like.

A specification names options in order, those left out have defaults; an encoding's ``spec`` spells all of them out, and
parsing it gives the encoding again.
"""

from __future__ import annotations

from collections.abc import Callable

from softlabels.encodings import log_probs
from softlabels.encodings.codebook import MOST
from softlabels.encodings.dense import Dense
from softlabels.encodings.protocol import Encoding
from softlabels.encodings.sampled import MOST_LEVELS, Sampled, Threshold
from softlabels.encodings.topk import Adaptive, TopK
from softlabels.errors import InvalidArgument

DTYPES = log_probs.NAMES.split("|")
FORMS = (
    f"dense[:f32|f16|bf16|q8], topk:K[:{log_probs.NAMES}[:M]], adaptive:P[:{log_probs.NAMES}[:M]] (P: the least "
    "probability listed; M: tail priors), sampled:N[:EXPONENT], threshold:TAU[:LEVELS]"
)
FEW_CLASSES = 64
"""Up to this many classes every logit is kept unless told otherwise."""
MANY_CLASSES = 4096
"""From here on labels of a language model are meant, which are best unbiased."""
LEAST = 2e-5
"""The least probability a threshold may have: a row lists at most 1 / LEAST classes, which 16 bits count."""
MOST_DRAWS = 2**16 - 1


def parse(spec: str, *, classes: int) -> Encoding:
    """The encoding that ``spec`` names, for a head of ``classes`` classes.

    Raises:
        InvalidArgument: no such encoding or option, or k above the class count.
    """
    name, *options = spec.split(":")
    forms: dict[str, tuple[Callable[[str, list[str], int], Encoding], int, int]] = {
        "dense": (_dense, 0, 1),
        "topk": (_topk, 1, 3),
        "adaptive": (_adaptive, 1, 3),
        "sampled": (_sampled, 1, 2),
        "threshold": (_threshold, 1, 2),
    }
    if name not in forms:
        raise InvalidArgument(f"unknown encoding {spec!r}; it is one of {FORMS}")
    make, least, most = forms[name]
    try:
        if not least <= len(options) <= most:
            raise ValueError(f"{len(options)} options")
        return make(spec, options, classes)
    except InvalidArgument:
        raise
    except ValueError as error:
        raise InvalidArgument(f"the encoding {spec!r} cannot be meant ({error}); it is one of {FORMS}") from None


def default(classes: int, temperatures: int = 1) -> Encoding:
    """What labels are kept as where nobody says: chosen by training students (docs/fidelity.md, section 9).

    Every logit in half precision for a few classes; the 32 likeliest for hundreds; for a vocabulary a sample that is
    right on average, or, at several temperatures, the classes that have a say.

    Args:
        classes: of the head.
        temperatures: how many there are.
    """
    if classes <= FEW_CLASSES:
        return Dense("f16")
    if classes < MANY_CLASSES:
        return TopK(32)
    return Threshold(0.05, Threshold.usual_levels(0.05)) if temperatures == 1 else Adaptive(0.005)


def _dense(spec: str, options: list[str], classes: int) -> Encoding:
    return Dense(_choice(options[0], Dense.DTYPES)) if options else Dense()


def _topk(spec: str, options: list[str], classes: int) -> Encoding:
    k = _whole(options[0], 1, 2**31)
    if k > classes:
        raise InvalidArgument(f"encoding {spec!r} lists {k} classes a row, but there are {classes}; use 1 to {classes}")
    return TopK(k, *_kept(options[1:]))


def _adaptive(spec: str, options: list[str], classes: int) -> Encoding:
    return Adaptive(_probability(options[0]), *_kept(options[1:]))


def _kept(options: list[str]) -> tuple[str, int] | tuple[str] | tuple[()]:
    """How log-probabilities are kept, and how many tail priors there are."""
    if len(options) == 2:
        return _choice(options[0], DTYPES), _whole(options[1], 1, MOST)
    return (_choice(options[0], DTYPES),) if options else ()


def _sampled(spec: str, options: list[str], classes: int) -> Encoding:
    exponent = float(options[1]) if len(options) > 1 else 1.0
    if not 0 < exponent <= 4:
        raise ValueError(f"an exponent of {exponent:g}; it lies above 0 and is at most 4")
    return Sampled(_whole(options[0], 1, MOST_DRAWS), float(f"{exponent:g}"))


def _threshold(spec: str, options: list[str], classes: int) -> Encoding:
    tau = _probability(options[0])
    if tau == 1:
        raise ValueError("a threshold of 1")
    levels = _whole(options[1], 1, MOST_LEVELS) if len(options) > 1 else Threshold.usual_levels(tau)
    return Threshold(tau, levels)


def _choice(name: str, names: tuple[str, ...] | list[str]) -> str:
    if name not in names:
        raise ValueError(f"{name!r} where {'|'.join(names)} is expected")
    return name


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise ValueError(f"{text!r} where a whole number from {least} to {most} is expected")
    return int(text)


def _probability(text: str) -> float:
    value = float(text)
    if not LEAST <= value <= 1:
        raise ValueError(f"{text!r} where a probability from {LEAST:g} to 1 is expected")
    return float(f"{value:g}")
