"""Files of arrays beside the shards (tail priors, probes, extras, codebooks): safetensors, verified, then parsed.

The header is parsed here, within 128 KiB: one of 86 MB, which safetensors allows, becomes gigabytes of objects. The
arrays are views of the bytes that were read, so a file costs its own size in memory and no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from safetensors.numpy import save

from softlabels.errors import InvalidArgument
from softlabels.store.format import canonical_json
from softlabels.store.format.fields import Fields, check_integer
from softlabels.store.format.limits import MAX_ARRAYS_BYTES, MAX_AXES, MAX_HEADER_BYTES
from softlabels.store.storage.read_errors import read_errors
from softlabels.store.storage.storage import Storage

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8",
    "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
"""Types of safetensors and of NumPy; both have others, which no file of a store holds."""
PREFIX_BYTES = 8
"""Bytes of the header's length, before the header."""


def to_bytes(arrays: Mapping[str, NDArray[Any]], *, limit: int = MAX_ARRAYS_BYTES) -> tuple[bytes, str]:
    """Return the bytes of a file of arrays, and their BLAKE3.

    Raises:
        InvalidArgument: The file is larger than readers accept.
    """
    data: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    if len(data) > limit:
        raise InvalidArgument(f"file of arrays: got {len(data):,} bytes; expected at most {limit:,}")
    return data, str(blake3(data).hexdigest())


def read(
    storage: Storage, name: str, digest: str, advice: str, *, limit: int = MAX_ARRAYS_BYTES, writable: bool = True
) -> dict[str, NDArray[Any]]:
    """Return the arrays in a file whose BLAKE3 is ``digest``.

    Args:
        storage: Storage of the store.
        name: Name of the file.
        digest: BLAKE3 of the file, hexadecimal.
        advice: Advice of the error if the file is damaged.
        limit: Most bytes of the file.
        writable: If False, the bytes are not copied, and the arrays can only be read.

    Raises:
        StoreCorrupt: The file is missing, too large, or not what was committed.
    """
    with read_errors(storage.locate(name), advice):
        data = storage.read(name, limit)
        if blake3(data).hexdigest() != digest:
            raise ValueError("it is not what was committed (BLAKE3)")
        return parse(bytearray(data) if writable else data)


def parse(data: bytes | bytearray) -> dict[str, NDArray[Any]]:
    """Return the arrays in the bytes of a file, as views of them.

    Raises:
        ValueError: The bytes are not safetensors with arrays that tile the file.

    Example:
        >>> data, _ = to_bytes({"a": np.arange(3)})
        >>> parse(bytearray(data))["a"].tolist()
        [0, 1, 2]
    """
    size = int.from_bytes(data[:PREFIX_BYTES], "little")
    if not 0 < size <= min(MAX_HEADER_BYTES, len(data) - PREFIX_BYTES):
        raise ValueError(f"no arrays: a header of {size:,} bytes; expected at most {MAX_HEADER_BYTES:,}")
    start = PREFIX_BYTES + size
    try:
        header = Fields(json.loads(bytes(data[PREFIX_BYTES:start]), object_pairs_hook=canonical_json.unique), "header")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no arrays: {error}") from None
    arrays: dict[str, NDArray[Any]] = {}
    extents: list[tuple[int, int]] = []
    for name in header:
        if name != "__metadata__":
            arrays[name], extent = _array(data, start, header.object(name))
            extents.append(extent)
    end = 0
    for first, last in sorted(extents):
        if first != end:
            raise ValueError("no arrays: their byte ranges have gaps or overlap")
        end = last
    if end != len(data) - start:
        raise ValueError(f"no arrays: their byte ranges end at {end:,}, the file at {len(data) - start:,}")
    return arrays


def _array(data: bytes | bytearray, start: int, fields: Fields) -> tuple[NDArray[Any], tuple[int, int]]:
    """Return an array and its byte range behind the header."""
    name = fields.text("dtype")
    if name not in DTYPES:
        raise ValueError(f"no arrays: the dtype {name[:16]!r}")
    dtype, limit = np.dtype(DTYPES[name]), len(data) - start
    sides = fields.items("shape", MAX_AXES + 3)
    shape = [check_integer(fields.path("shape"), side, 0, limit) for side in sides]
    offsets = fields.items("data_offsets", 2)
    first, last = (check_integer(fields.path("data_offsets"), offset, 0, limit) for offset in offsets)
    count = math.prod(shape)
    if last - first != count * dtype.itemsize:
        raise ValueError(f"no arrays: {last - first:,} bytes for {count:,} numbers of {dtype}")
    return np.frombuffer(data, dtype, count, start + first).reshape(shape), (first, last)
