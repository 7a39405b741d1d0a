"""Encodings: how a head's logits become arrays, and arrays labels."""

from __future__ import annotations

from softlabels.encodings.dense import Dense
from softlabels.encodings.protocol import Arrays, Column, Encoded, Encoding
from softlabels.encodings.topk import TopK
from softlabels.errors import InvalidArgument

__all__ = ["Arrays", "Column", "Dense", "Encoded", "Encoding", "TopK", "default", "parse"]

FORMS = "dense[:f32|f16|bf16|q8], topk:K[:f16|q8]"
FEW_CLASSES = 64
"""Up to this many classes every logit is kept unless told otherwise."""


def parse(spec: str, *, classes: int) -> Encoding:
    """The encoding that ``spec`` names, for a head of ``classes`` classes.

    Raises:
        InvalidArgument: no such encoding or option, or k above the class count.
    """
    name, *options = spec.split(":")
    if name == "dense" and len(options) <= 1 and set(options) <= set(Dense.DTYPES):
        return Dense(*options)
    if name == "topk" and 1 <= len(options) <= 2 and options[0].isdecimal() and set(options[1:]) <= set(TopK.DTYPES):
        k = int(options[0])
        if not 1 <= k <= classes:
            raise InvalidArgument(
                f"encoding {spec!r} lists {k} classes a row, but there are {classes}; use 1 to {classes}"
            )
        return TopK(k, *options[1:])
    raise InvalidArgument(f"unknown encoding {spec!r}; it is one of {FORMS}")


def default(classes: int) -> Encoding:
    """Every logit in half precision for a few classes, else the 32 likeliest."""
    return Dense("f16") if classes <= FEW_CLASSES else TopK(32)
