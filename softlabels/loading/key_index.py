"""The index of a store's keys: which rows hold the labels of a key.

Made once a store, in one pass over its keys, and kept in the user's cache under the digest of the snapshot, so that it
can belong to no other state. Its own BLAKE3 is checked when it is read; a damaged one is made again.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.store import Store, cache_directory

Names = NDArray[np.bytes_]

ENTRY = np.dtype([("key", "S16"), ("view", "<u4"), ("row", "<i8")])
HASH_BYTES = 32


@dataclass(frozen=True)
class KeyIndex:
    """Rows by key and view, each pair once: the first row that has it.

    Attributes:
        keys: (n,) 16-byte strings, ascending.
        rows: (n,) row of the store.
    """

    keys: Names
    rows: NDArray[np.int64]

    def find(self, keys: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each of (m, 16) keys the place of its first view in ``rows``, and how many views there are."""
        wanted = as_names(keys)
        first = np.searchsorted(self.keys, wanted, side="left")
        return first, np.searchsorted(self.keys, wanted, side="right") - first


def as_names(keys: NDArray[np.uint8]) -> Names:
    """Keys as 16-byte strings, which NumPy sorts; trailing zero bytes are no ambiguity at a fixed length."""
    return np.ascontiguousarray(keys).view("S16").reshape(-1)


def key_index(store: Store) -> KeyIndex:
    """The index of a store's keys, from the cache where it is there."""
    path = cache_directory() / "keys" / f"{store.snapshot.digest}.index"
    entries = _read(path)
    if entries is None:
        entries = _build(store)
        _write(path, entries)
    return KeyIndex(np.ascontiguousarray(entries["key"]), np.ascontiguousarray(entries["row"]))


def _build(store: Store) -> NDArray[np.void]:
    entries = np.empty(store.rows, ENTRY)
    entries["row"] = np.arange(store.rows)
    start = 0
    for chunk, count in enumerate(store.chunk_rows()):
        found = store.read_chunk(chunk, ["key", "view"])
        entries["key"][start : start + count] = as_names(found["key"])
        entries["view"][start : start + count] = found["view"]
        start += int(count)
    # By key, then view, then row: sorted by the last criterion first.
    order = np.argsort(entries["view"], kind="stable")
    order = order[np.argsort(entries["key"][order], kind="stable")]
    ordered = entries[order]
    same = ordered["key"][1:] == ordered["key"][:-1]
    repeated = same & (ordered["view"][1:] == ordered["view"][:-1])
    kept: NDArray[np.void] = ordered[np.concatenate([[True], ~repeated])]
    return kept


def _read(path: Path) -> NDArray[np.void] | None:
    """The entries kept there; None where there are none, or other bytes than were written."""
    with contextlib.suppress(OSError, ValueError):
        data = path.read_bytes()
        if blake3(memoryview(data)[HASH_BYTES:]).digest() == data[:HASH_BYTES]:
            return np.frombuffer(data, ENTRY, offset=HASH_BYTES)
    return None


def _write(path: Path, entries: NDArray[np.void]) -> None:
    """Keep the entries; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        body = entries.tobytes()
        temporary.write_bytes(blake3(body).digest() + body)
        temporary.replace(path)
