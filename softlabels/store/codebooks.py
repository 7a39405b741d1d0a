"""Codebooks of tail priors as files of a store, named by their hash, which the descriptor holds.

A codebook is written before the descriptor, so a store that can be opened has those it names.
"""

from __future__ import annotations

from pathlib import Path

from blake3 import blake3
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from softlabels.encodings.codebook import MOST_BYTES, Codebook, check_priors
from softlabels.errors import StoreCorrupt
from softlabels.store import files, layout
from softlabels.store.descriptor import Descriptor

PRIORS = "priors"
HEADER_BYTES = 4096


def digest_of(codebook: Codebook) -> str:
    """The BLAKE3 of a codebook's file, hexadecimal."""
    return str(blake3(_to_bytes(codebook)).hexdigest())


def write_codebook(root: Path, codebook: Codebook) -> None:
    """Put a codebook into a store; one that is there already stays."""
    data = _to_bytes(codebook)
    files.put_if_absent(root, layout.codebook_path(root, str(blake3(data).hexdigest())), data)


def read_codebook(root: Path, descriptor: Descriptor, head: str) -> Codebook | None:
    """The codebook of a head, verified; None where it has none.

    Raises:
        StoreCorrupt: missing or damaged.
    """
    kind = descriptor.heads[head]
    if kind.codebook is None:
        return None
    path = layout.codebook_path(root, kind.codebook)
    try:
        data = files.read(path, MOST_BYTES + HEADER_BYTES)
        if blake3(data).hexdigest() != kind.codebook:
            raise ValueError("it is not the one that the descriptor names")
        arrays = load_arrays(data)
        if set(arrays) != {PRIORS}:
            raise ValueError(f"it holds {sorted(arrays)}")
        check_priors(arrays[PRIORS], (len(kind.temperatures), descriptor.encoding(head).priors, kind.classes))
    except (OSError, ValueError, SafetensorError) as error:
        raise StoreCorrupt(f"{path} is missing or damaged: {error}; fetch it again") from None
    return Codebook(arrays[PRIORS])


def _to_bytes(codebook: Codebook) -> bytes:
    data: bytes = save_arrays({PRIORS: codebook.priors})
    return data
