"""Keys: 16 bytes that name a row's input by content, so that labels can never meet another example unnoticed.

A key is BLAKE3, cut to 128 bits, of a header that names dtype and shape and of the row's bytes in C order and little
endian; equal inputs have equal keys. With an id column it is the hash of the id's text instead. The fingerprint of a
source is BLAKE3 of its keys in order. About a microsecond a row, plus the hash's 6 GB/s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument

KEY_BYTES = 16


def content_keys(inputs: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Keys of the rows of ``inputs``, (n, *shape) of a fixed-width dtype, as (n, 16) uint8."""
    array = np.ascontiguousarray(inputs, dtype=inputs.dtype.newbyteorder("<"))
    # '|u1' and '<u1' are one dtype; NumPy writes single bytes with '|'.
    header = f"softlabels key 1\0content\0{array.dtype.str}\0{','.join(map(str, array.shape[1:]))}\0".encode()
    rows = array.reshape(len(array), -1).view(np.uint8) if array.size else np.zeros((len(array), 0), np.uint8)
    seed = blake3(header)
    return _collect(len(array), (_with(seed, row) for row in rows))


def id_keys(ids: Iterable[object]) -> NDArray[np.uint8]:
    """Keys of rows named by an id (text or integer, as text in UTF-8), (n, 16) uint8."""
    seed = blake3(b"softlabels key 1\0id\0")
    values = [str(value).encode() for value in ids]
    return _collect(len(values), (_with(seed, np.frombuffer(value, np.uint8)) for value in values))


def as_keys(names: Sequence[object] | NDArray[np.generic]) -> NDArray[np.uint8]:
    """Keys from what names rows: (n, 16) uint8 and 16-byte digests as they are, text and integers as ids.

    Raises:
        InvalidArgument: something else, or a mixture.
    """
    if isinstance(names, np.ndarray) and names.dtype == np.uint8 and names.ndim == 2:
        if names.shape[1] != KEY_BYTES:
            raise InvalidArgument(f"keys have {KEY_BYTES} bytes, not {names.shape[1]}")
        return names.astype(np.uint8, copy=False)
    values = list(names)
    if values and all(isinstance(value, bytes) for value in values):
        if {len(value) for value in values} != {KEY_BYTES}:
            raise InvalidArgument(f"keys given as bytes have {KEY_BYTES}; give ids as text or integers")
        return np.frombuffer(b"".join(values), np.uint8).reshape(-1, KEY_BYTES)
    odd = next((value for value in values if not isinstance(value, str | int | np.integer)), None)
    if odd is not None:
        raise InvalidArgument(f"a row is named by text, an integer or a {KEY_BYTES}-byte key, not by {odd!r}")
    return id_keys(values)


def fingerprint(keys: Iterable[NDArray[np.uint8]]) -> str:
    """The name of a whole dataset, hexadecimal: BLAKE3 of its ordered keys, given in pieces."""
    hasher = blake3(b"softlabels fingerprint 1\0")
    for piece in keys:
        hasher.update(np.ascontiguousarray(piece).data)
    return str(hasher.hexdigest())


def _with(seed: blake3, data: NDArray[np.uint8]) -> bytes:
    hasher = seed.copy()
    hasher.update(data.data if data.size else b"")
    return bytes(hasher.digest(length=KEY_BYTES))


def _collect(count: int, digests: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(count, KEY_BYTES)


def row_names(keys: NDArray[np.uint8], views: NDArray[np.uint32]) -> NDArray[np.bytes_]:
    """Return key and view of each row as one 20-byte string that NumPy sorts, (n,) ``S20``.

    NumPy drops trailing zero bytes when it hands out single items, which is no ambiguity at a fixed length.

    Args:
        keys: Keys, (n, 16).
        views: Views, (n,).
    """
    joined = np.concatenate([keys, views.astype("<u4").reshape(-1, 1).view(np.uint8)], axis=1)
    return np.ascontiguousarray(joined).view("S20").reshape(-1)
