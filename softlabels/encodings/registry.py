"""Encodings by specification, such as ``topk:32:q8``.

A specification names options in order, and those left out have defaults. An encoding's ``spec`` spells all of them out
and parses to the encoding. A new encoding is one file in ``softlabels/encodings/families``.
"""

from __future__ import annotations

from softlabels.encodings.encoding import Encoding
from softlabels.encodings.families import families
from softlabels.encodings.families.adaptive import Adaptive
from softlabels.encodings.families.dense import Dense
from softlabels.encodings.families.threshold import Threshold
from softlabels.encodings.families.topk import TopK
from softlabels.errors import InvalidArgument
from softlabels.labels import HeadKind
from softlabels.suggestions import suggest

MAX_DENSE_CLASSES = 64
"""Greatest number of classes for which the default encoding stores every logit."""
MANY_CLASSES = 4096
"""Number of classes from which on the default is that of a language model."""


def parse(spec: str, *, classes: int) -> Encoding:
    """Return the encoding of a specification.

    Example:
        >>> from softlabels import encodings
        >>> encodings.parse("topk:32", classes=1000).spec
        'topk:32:f16'

    Args:
        spec: Specification such as ``topk:32:q8``.
        classes: Number of classes of the head.

    Raises:
        InvalidArgument: An unknown encoding or option, or k above the number of classes.
    """
    family = family_of(spec)
    try:
        return family.from_options(spec.split(":")[1:], classes)
    except InvalidArgument:
        raise
    except ValueError as error:
        raise InvalidArgument(
            f"encoding: invalid {spec!r} ({error}); expected {family.form}, such as {family.example}"
        ) from None


def family_of(spec: str) -> type[Encoding]:
    """Return the family of encodings that a specification names, whatever its options.

    Args:
        spec: Specification such as ``topk:32:q8``.

    Raises:
        InvalidArgument: There is no such family.

    Example:
        >>> family_of("topk:32").form
        'topk:K[:f16|q8|d2|d4|d8|d16[:M]] (M: number of tail priors)'
    """
    name = spec.partition(":")[0]
    if name not in families():
        raise InvalidArgument(f"unknown encoding {spec!r}; expected one of {forms()}{suggest(name, families())}")
    return families()[name]


def forms() -> str:
    """Return the grammar of every encoding, for messages."""
    return ", ".join(family.form for family in families().values())


def default(classes: int, temperatures: int = 1, kind: HeadKind = "classes") -> Encoding:
    """Return the default encoding, chosen by training students (docs/fidelity.md, sections 9 and 11).

    It stores every logit in half precision for a few classes, and the 32 likeliest for hundreds. For tokens of more
    than a few classes, and for any vocabulary, it is a sample that is right on average, or, for several temperatures,
    the classes above a probability. Most pixels have one likely class, so they are lists of those above 1 %.

    Example:
        >>> from softlabels import encodings
        >>> encodings.default(10).spec, encodings.default(1000).spec, encodings.default(50_000).spec
        ('dense:f16', 'topk:32:f16', 'threshold:0.05:43:dither')
        >>> encodings.default(1000, kind="tokens").spec, encodings.default(19, kind="pixels").spec
        ('threshold:0.05:43:dither', 'adaptive:0.01:d4')

    Args:
        classes: Number of classes of the head.
        temperatures: Number of temperatures.
        kind: Kind of the head.
    """
    if kind == "pixels":
        return Adaptive(0.01)
    if classes <= MAX_DENSE_CLASSES:
        return Dense("f16")
    if classes < MANY_CLASSES and kind != "tokens":
        return TopK(32)
    return Threshold(0.05, Threshold.usual_levels(0.05)) if temperatures == 1 else Adaptive(0.005)
