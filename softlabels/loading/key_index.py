"""The index of a store's keys: the rows that hold the labels of a key.

The index is built once for each store, in one pass over its keys, and saved in the user's cache under the digest of the
snapshot, so it cannot belong to another state. Its own BLAKE3 is checked when it is read. A damaged index is rebuilt.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.store import Store
from softlabels.store.storage.user_cache import cache_directory, write_cached

Names = NDArray[np.bytes_]

ENTRY = np.dtype([("key", "S16"), ("view", "<u4"), ("row", "<i8")])
HASH_BYTES = 32


@dataclass(frozen=True)
class KeyIndex:
    """Rows by key and view. Each pair of key and view occurs once, with the first row that has it.

    Attributes:
        keys: Keys as 16-byte strings, ascending, (n,).
        rows: Row of the store for each key, (n,).
    """

    keys: Names
    rows: NDArray[np.int64]

    def find(self, keys: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each of (m, 16) keys the index of its first view in ``rows``, and its number of views."""
        names = as_names(keys)
        first = np.searchsorted(self.keys, names, side="left")
        return first, np.searchsorted(self.keys, names, side="right") - first


def as_names(keys: NDArray[np.uint8]) -> Names:
    """Return keys as 16-byte strings, which NumPy sorts. At a fixed length, trailing zero bytes are not ambiguous."""
    return np.ascontiguousarray(keys).view("S16").reshape(-1)


def key_index(store: Store) -> KeyIndex:
    """Return the index of a store's keys, from the cache if it is there.

    Raises:
        StoreCorrupt: Bytes in the store are not what was committed.
    """
    path = cache_directory() / "keys" / f"{store.snapshot.digest}.index"
    entries = _read(path)
    if entries is None:
        entries = _build(store)
        body = entries.tobytes()
        write_cached(path, blake3(body).digest() + body)
    return KeyIndex(np.ascontiguousarray(entries["key"]), np.ascontiguousarray(entries["row"]))


def _build(store: Store) -> NDArray[np.void]:
    entries = np.empty(store.rows, ENTRY)
    entries["row"] = np.arange(store.rows)
    start = 0
    for columns in store.read_chunks(range(store.chunks), ["key", "view"]):
        stop = start + len(columns["view"])
        entries["key"][start:stop] = as_names(columns["key"])
        entries["view"][start:stop] = columns["view"]
        start = stop
    # By key, then view, then row: stable sorts, the last criterion first.
    order = np.argsort(entries["view"], kind="stable")
    order = order[np.argsort(entries["key"][order], kind="stable")]
    ordered = entries[order]
    same_key = ordered["key"][1:] == ordered["key"][:-1]
    repeated = same_key & (ordered["view"][1:] == ordered["view"][:-1])
    distinct: NDArray[np.void] = ordered[np.concatenate([[True], ~repeated])]
    return distinct


def _read(path: Path) -> NDArray[np.void] | None:
    """Return the saved entries; None if there are none, or if other bytes than were written."""
    with contextlib.suppress(OSError, ValueError):
        data = path.read_bytes()
        if blake3(memoryview(data)[HASH_BYTES:]).digest() == data[:HASH_BYTES]:
            return np.frombuffer(data, ENTRY, offset=HASH_BYTES)
    return None
