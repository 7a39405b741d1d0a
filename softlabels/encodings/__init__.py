"""Encodings: how a head's logits become arrays, and arrays labels."""

from __future__ import annotations

from softlabels.columns import Arrays, Column
from softlabels.encodings.codebook import Codebook
from softlabels.encodings.dense import Dense
from softlabels.encodings.protocol import Encoded, Encoding, row_bytes
from softlabels.encodings.sampled import Sampled, Threshold
from softlabels.encodings.specification import MANY_CLASSES, default, parse
from softlabels.encodings.topk import Adaptive, TopK

__all__ = [
    "MANY_CLASSES",
    "Adaptive",
    "Arrays",
    "Codebook",
    "Column",
    "Dense",
    "Encoded",
    "Encoding",
    "Sampled",
    "Threshold",
    "TopK",
    "default",
    "parse",
    "row_bytes",
]
