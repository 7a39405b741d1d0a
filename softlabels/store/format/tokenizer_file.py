"""The tokenizer of a store as a file named by its digest, which the descriptor holds.

It is written before the descriptor and never changes, so every store that can be opened has its tokenizer.
"""

from __future__ import annotations

from typing import TypeAlias

from blake3 import blake3

from softlabels.errors import InvalidArgument
from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.storage.read_errors import FETCH, read_errors
from softlabels.store.storage.storage import Storage

MAX_TOKENIZER_BYTES = 2**26

TokenizerDocument: TypeAlias = bytes
"""JSON of a tokenizer, as softlabels.text.Tokenizer writes it."""


def write_tokenizer(storage: Storage, descriptor: Descriptor, document: TokenizerDocument | None) -> None:
    """Write the tokenizer that a descriptor names; an existing file is not changed.

    Args:
        storage: Storage of the store.
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
    storage.put_if_absent(paths.tokenizer_path(digest), document)


def read_tokenizer(storage: Storage, descriptor: Descriptor) -> TokenizerDocument | None:
    """Return the tokenizer of a store, verified; None if it has none.

    Raises:
        StoreCorrupt: The file is missing or damaged.
    """
    digest = None if descriptor.inputs is None else descriptor.inputs.tokenizer
    if digest is None:
        return None
    name = paths.tokenizer_path(digest)
    with read_errors(storage.locate(name), FETCH):
        document = storage.read(name, MAX_TOKENIZER_BYTES)
        if blake3(document).hexdigest() != digest:
            raise ValueError("its bytes are not those that the descriptor names")
    return document
