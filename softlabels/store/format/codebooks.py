"""Codebooks as files of a store, named by their hash, which the descriptor holds.

A codebook is written before the descriptor, so a store that can be opened has those it names.
"""

from __future__ import annotations

from softlabels.encodings.codebook import MAX_CODEBOOK_BYTES, Codebook, check_priors
from softlabels.store.format import array_file, paths
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.storage.read_errors import FETCH, read_errors
from softlabels.store.storage.storage import Storage

PRIORS = "priors"
LIMIT = MAX_CODEBOOK_BYTES + 4096
"""Bytes of the file, header included."""


def digest_of(codebook: Codebook) -> str:
    """Return the BLAKE3 of a codebook's file, hexadecimal."""
    return array_file.to_bytes({PRIORS: codebook.priors}, limit=LIMIT)[1]


def write_codebook(storage: Storage, codebook: Codebook) -> None:
    """Put a codebook into a store; one that is there already stays."""
    data, digest = array_file.to_bytes({PRIORS: codebook.priors}, limit=LIMIT)
    storage.put_if_absent(paths.codebook_path(digest), data)


def read_codebook(storage: Storage, descriptor: Descriptor, head: str) -> Codebook | None:
    """Return the codebook of a head, verified; None if it has none.

    Raises:
        StoreCorrupt: The file is missing or damaged.
    """
    kind = descriptor.heads[head]
    if kind.codebook is None:
        return None
    name = paths.codebook_path(kind.codebook)
    arrays = array_file.read(storage, name, kind.codebook, FETCH, limit=LIMIT)
    with read_errors(storage.locate(name), FETCH):
        if set(arrays) != {PRIORS}:
            raise ValueError(f"it holds {sorted(arrays)}")
        encoding = descriptor.encoding(head)
        shape = (len(kind.temperatures), encoding.priors, kind.classes)
        check_priors(arrays[PRIORS], shape, standardizes=encoding.standardizes)
    return Codebook(arrays[PRIORS])
