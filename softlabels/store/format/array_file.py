"""Files of arrays beside the shards (tail priors, probes, extras, codebooks): safetensors, verified, then parsed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from softlabels.errors import InvalidArgument
from softlabels.store.format.limits import MAX_ARRAYS_BYTES
from softlabels.store.storage import posix
from softlabels.store.storage.read_errors import refused


def to_bytes(arrays: Mapping[str, NDArray[Any]], *, limit: int = MAX_ARRAYS_BYTES) -> tuple[bytes, str]:
    """A file of arrays, and its BLAKE3.

    Raises:
        InvalidArgument: larger than readers accept.
    """
    data: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    if len(data) > limit:
        raise InvalidArgument(f"arrays of {len(data):,} bytes, where at most {limit:,} are kept in one file")
    return data, str(blake3(data).hexdigest())


def read(root: Path, path: Path, digest: str, mend: str, *, limit: int = MAX_ARRAYS_BYTES) -> dict[str, NDArray[Any]]:
    """The arrays in a file whose BLAKE3 is ``digest``.

    Raises:
        StoreCorrupt: missing, too large, or not what was committed.
    """
    with refused(path, mend):
        data = posix.read(root, path, limit)
        if blake3(data).hexdigest() != digest:
            raise ValueError("it is not what was committed (BLAKE3)")
        try:
            return dict(load(data))
        except (SafetensorError, KeyError) as error:  # KeyError: a dtype that NumPy lacks
            raise ValueError(f"no arrays: {error}") from error
