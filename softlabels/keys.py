"""Keys: 16 bytes that name a row's input by content, so that no label is used with another example unnoticed.

A key is BLAKE3, cut to 128 bits, of a header that names dtype and shape and of the row's bytes in C order and little
endian; equal inputs have equal keys. With an id column it is the hash of the id's text instead. The fingerprint of a
source is BLAKE3 of its keys in order. About a microsecond per row, plus the hash's 6 GB/s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument

KEY_BYTES = 16
ROUND_ROWS = 2**22
"""Keys that are sorted at a time while looking for repeated ones: 64 MiB of work memory."""
SCAN_ROWS = 2**20
"""Keys that are looked at together."""


def content_keys(inputs: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return the keys of inputs, named by their content, (n, 16) uint8.

    Args:
        inputs: (n, *shape) of a dtype of fixed width, in any byte order.

    Example:
        >>> content_keys(np.zeros((2, 3), np.float32)).shape
        (2, 16)
    """
    array = np.ascontiguousarray(inputs, dtype=inputs.dtype.newbyteorder("<"))
    # '|u1' and '<u1' are one dtype; NumPy writes single bytes with '|'.
    header = f"softlabels key 1\0content\0{array.dtype.str}\0{','.join(map(str, array.shape[1:]))}\0".encode()
    rows = array.reshape(len(array), -1).view(np.uint8) if array.size else np.zeros((len(array), 0), np.uint8)
    seed = blake3(header)
    return _collect(len(array), (_with(seed, row) for row in rows))


def id_keys(ids: Iterable[object]) -> NDArray[np.uint8]:
    """Return the keys of rows named by ids, (n, 16) uint8.

    Args:
        ids: Text or whole numbers; a number stands for its decimal digits, text for its UTF-8 bytes.

    Raises:
        InvalidArgument: A text is not valid Unicode.

    Example:
        >>> bool((id_keys(["7"]) == id_keys([7])).all())
        True
    """
    seed = blake3(b"softlabels key 1\0id\0")
    try:
        values = [str(value).encode() for value in ids]
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"ids: invalid text {error.object!r}; expected Unicode without surrogates") from error
    return _collect(len(values), (_with(seed, np.frombuffer(value, np.uint8)) for value in values))


def as_keys(
    names: Sequence[object] | NDArray[np.generic], views: NDArray[np.uint32] | None = None
) -> NDArray[np.uint8]:
    """Return the keys of rows, (n, 16) uint8, from keys or from ids.

    Args:
        names: (n, 16) uint8 or 16-byte digests, which are keys already, or ids: text or whole numbers, all different.
        views: (n,) view of each row; an id may then occur once per view. None: every row is view 0.

    Raises:
        InvalidArgument: A name is missing, blank or of another type, names are of several kinds, or an id occurs
            twice; names the rows.

    Example:
        >>> as_keys(["a", "b"]).shape
        (2, 16)
    """
    if hasattr(names, "detach"):  # a tensor of keys or of whole numbers
        names = names.detach().cpu().numpy()
    if isinstance(names, np.ndarray) and names.dtype == np.uint8 and names.ndim == 2:
        if names.shape[1] != KEY_BYTES:
            raise InvalidArgument(f"keys: expected {KEY_BYTES} bytes per row, got {names.shape[1]}")
        return names.astype(np.uint8, copy=False)
    if isinstance(names, str | bytes):
        raise InvalidArgument(f"ids: no sequence, got {names!r}; expected one id per row, such as [{names!r}]")
    values = list(names)
    if values and all(isinstance(value, bytes) for value in values):
        if {len(value) for value in values} != {KEY_BYTES}:
            raise InvalidArgument(f"keys: expected {KEY_BYTES} bytes per row; pass ids as text or whole numbers")
        return np.frombuffer(b"".join(values), np.uint8).reshape(-1, KEY_BYTES)
    _check_ids(values)
    keys = id_keys(values)
    pairs = row_names(keys, np.zeros(len(keys), np.uint32) if views is None else views)
    order = np.argsort(pairs, kind="stable")
    repeated = np.flatnonzero(pairs[order][1:] == pairs[order][:-1])
    if len(repeated):
        first, second = order[repeated[0]], order[repeated[0] + 1]
        raise InvalidArgument(f"ids must be unique, but rows {first} and {second} are both {values[first]!r}")
    return keys


def _check_ids(values: Sequence[object]) -> None:
    """Raise for an id that is blank, or neither text nor a whole number."""
    for row, value in enumerate(values):
        if not isinstance(value, str | int | np.integer) or isinstance(value, bool):
            raise InvalidArgument(
                f"ids, row {row}: expected text, a whole number or a key of {KEY_BYTES} bytes, got {value!r}"
            )
        if isinstance(value, str) and not value.strip():
            raise InvalidArgument(f"ids, row {row}: the id is blank; every row needs one")


def repeated_rows(keys: NDArray[np.uint8], *, round_rows: int = ROUND_ROWS) -> tuple[int, int] | None:
    """Return two rows with the same key, the earlier one first; None if all keys differ.

    Keys are sorted in rounds over ranges of their first bytes, so work memory does not grow with the number of rows.

    Args:
        keys: (n, 16) uint8, perhaps mapped from a file.
        round_rows: Number of keys that are sorted at a time, about.

    Example:
        >>> repeated_rows(id_keys(["a", "b", "a"]))
        (0, 2)
    """
    rounds = -(-len(keys) // round_rows)
    bounds = [(number << 16) // rounds for number in range(rounds + 1)] if rounds else []
    for low, high in itertools.pairwise(bounds):
        rows = np.concatenate([_rows_between(keys, start, low, high) for start in range(0, len(keys), SCAN_ROWS)])
        chosen = np.ascontiguousarray(keys[rows]).view(f"S{KEY_BYTES}").reshape(-1)
        order = np.argsort(chosen, kind="stable")
        same = np.flatnonzero(chosen[order][1:] == chosen[order][:-1])
        if len(same):
            return int(rows[order[same[0]]]), int(rows[order[same[0] + 1]])
    return None


def fingerprint(keys: Iterable[NDArray[np.uint8]]) -> str:
    """Return the name of a dataset, hexadecimal: BLAKE3 of its ordered keys.

    Args:
        keys: The keys in order, in blocks of (n, 16) uint8.

    Example:
        >>> fingerprint([id_keys(["a", "b"])]) == fingerprint([id_keys(["a"]), id_keys(["b"])])
        True
    """
    hasher = blake3(b"softlabels fingerprint 1\0")
    for block in keys:
        hasher.update(np.ascontiguousarray(block).data)
    return str(hasher.hexdigest())


def _rows_between(keys: NDArray[np.uint8], start: int, low: int, high: int) -> NDArray[np.int64]:
    """Return the rows of one scan whose first two bytes are in [low, high)."""
    scanned = keys[start : start + SCAN_ROWS]
    prefix = scanned[:, 0].astype(np.int64) << 8 | scanned[:, 1]
    return start + np.flatnonzero((prefix >= low) & (prefix < high))


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
