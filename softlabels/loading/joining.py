"""Joining labels to the user's data, by key: each label meets the example it was made from, or there is an error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import KeyMissing
from softlabels.sources import Source
from softlabels.store import Store

NAMED = 3
"""Missing keys that a message names."""


@dataclass(frozen=True)
class Join:
    """Pairs of rows, ordered by the store's row.

    Attributes:
        store_rows: (n,) row of the store.
        source_rows: (n,) row of the data.
    """

    store_rows: NDArray[np.int64]
    source_rows: NDArray[np.int64]


def join(store: Store, source: Source, rows: NDArray[np.int64]) -> Join:
    """Find the labels of ``rows`` of ``source``.

    The same data in the same order (equal fingerprints) needs no look at the keys. Otherwise every key of the data is
    looked up among the store's; equal inputs have equal labels, so the first of several will do.

    Raises:
        KeyMissing: some rows have no label; says how many and names the first.
    """
    if source.fingerprint == store.descriptor.data["fingerprint"]:
        ordered = np.sort(rows)
        return Join(ordered, ordered)
    stored = _sortable(store.keys())
    by_key = np.argsort(stored, kind="stable")
    wanted = _sortable(source.keys()[rows])
    positions = np.minimum(np.searchsorted(stored, wanted, sorter=by_key), len(stored) - 1)
    found = by_key[positions]
    missing = np.flatnonzero(stored[found] != wanted)
    if len(missing):
        named = ", ".join(f"row {rows[i]} ({source.keys()[rows[i]].tobytes().hex()})" for i in missing[:NAMED])
        raise KeyMissing(
            f"{len(missing):,} of {len(rows):,} rows of {source.spec} have no label in {store.root}: {named}"
            f"{', ...' if len(missing) > NAMED else ''}. Were the labels made from this data, with the same input "
            "columns and --id? Generate labels for it, or name the data they were made from"
        )
    order = np.argsort(found, kind="stable")
    return Join(found[order], rows[order])


def _sortable(keys: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Keys as 16-byte strings, which NumPy sorts; trailing zero bytes are no ambiguity at a fixed length."""
    return np.ascontiguousarray(keys).view("S16").reshape(-1)
