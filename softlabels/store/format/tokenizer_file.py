"""The tokenizer of a store as a file named by its digest, which the descriptor holds.

It is written before the descriptor and never changes, so every store that can be opened has its tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from blake3 import blake3

from softlabels.errors import InvalidArgument
from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.storage import posix
from softlabels.store.storage.read_errors import FETCH, refused

MAX_TOKENIZER_BYTES = 2**26

TokenizerDocument: TypeAlias = bytes
"""JSON of a tokenizer, as softlabels.text.Tokenizer writes it."""


def write_tokenizer(root: Path, descriptor: Descriptor, document: TokenizerDocument | None) -> None:
    """Write the tokenizer that a descriptor names; an existing file is not changed.

    Args:
        root: Directory of the store.
        descriptor: Descriptor of the store.
        document: The tokenizer; None if the descriptor names none.

    Raises:
        InvalidArgument: The document is not the one that the descriptor names.
    """
    digest = None if descriptor.inputs is None else descriptor.inputs.tokenizer
    if digest is None:
        return
    if document is None or len(document) > MAX_TOKENIZER_BYTES or blake3(document).hexdigest() != digest:
        raise InvalidArgument(f"tokenizer: got another document; expected the one with digest {digest}")
    posix.put_if_absent(root, paths.tokenizer_path(root, digest), document)


def read_tokenizer(root: Path, descriptor: Descriptor) -> TokenizerDocument | None:
    """Return the tokenizer of a store, verified; None if it has none.

    Raises:
        StoreCorrupt: The file is missing or damaged.
    """
    digest = None if descriptor.inputs is None else descriptor.inputs.tokenizer
    if digest is None:
        return None
    path = paths.tokenizer_path(root, digest)
    with refused(path, FETCH):
        document = posix.read(root, path, MAX_TOKENIZER_BYTES)
        if blake3(document).hexdigest() != digest:
            raise ValueError("its bytes are not those that the descriptor names")
    return document
