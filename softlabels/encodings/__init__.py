"""Encodings: how a head's logits become arrays, and arrays become labels.

``parse`` returns the encoding of a specification. ``Encoding.encode`` needs torch; decoding needs NumPy alone.
"""

from __future__ import annotations

from softlabels.columns import Arrays, Column
from softlabels.encodings.codebook import Codebook
from softlabels.encodings.encoding import Encoded, Encoding, row_bytes
from softlabels.encodings.families.adaptive import Adaptive
from softlabels.encodings.families.counts import Counts
from softlabels.encodings.families.dense import Dense
from softlabels.encodings.families.sampled import Sampled
from softlabels.encodings.families.threshold import Threshold
from softlabels.encodings.families.topk import TopK
from softlabels.encodings.registry import MANY_CLASSES, default, parse

__all__ = [
    "MANY_CLASSES",
    "Adaptive",
    "Arrays",
    "Codebook",
    "Column",
    "Counts",
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
