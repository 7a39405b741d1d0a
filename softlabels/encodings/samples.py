"""Common parts of ``sampled`` and ``threshold``: weighted classes whose expectation is the teacher's distribution.

Labels that leave classes out teach the student that those never happen, or happen as often as elsewhere. Labels that
are a sample are right on average in every context. Their draws hold at one temperature, the first of the head, and
follow from the seed of the store (rng.words).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings.encoding import check_distinct, check_ids
from softlabels.encodings.log_probs import pad, padded_width
from softlabels.errors import InvalidArgument
from softlabels.labels import Head, SparseLabels


def sample_labels(
    counts: NDArray[np.integer], ids: NDArray[Any], log_weights: NDArray[np.float32], head: Head, *, widen: bool
) -> SparseLabels:
    """Return unbiased labels.

    Args:
        counts: (B,) classes of each row.
        ids: Their ids, those of all rows one after the other.
        log_weights: (B, K) float32, -inf for padding.
        head: Head of the labels.
        widen: Return ids as int64.
    """
    padded = pad(ids, counts)
    return SparseLabels(
        classes=head.classes,
        ids=padded.astype(np.int64) if widen else padded,
        values=log_weights,
        temperatures=head.temperatures[:1],
        log_tail=np.full((len(counts), 1), -np.inf, np.float32),
        unbiased=True,
    )


def check_sampled_ids(ids: NDArray[Any], counts: NDArray[np.integer], head: Head) -> None:
    """Raise ValueError for ids that are no classes or repeat in a row, or rows too uneven to pad."""
    check_ids(ids, head)
    padded_width(counts)
    check_distinct(ids, counts)


def require_one_temperature(spec: str, head: Head) -> None:
    """Raise InvalidArgument unless the head has one temperature."""
    if len(head.temperatures) > 1:
        named = ", ".join(f"{t:g}" for t in head.temperatures)
        raise InvalidArgument(
            f"{spec}: holds at the one temperature it is drawn at, got {named}. Name one, or use topk or adaptive, "
            "which are exact at several"
        )
