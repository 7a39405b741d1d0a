"""Receivers of the files of a store: a storage, or a repository that takes many files in one commit."""

from __future__ import annotations

from typing import Protocol

from blake3 import blake3

from softlabels.errors import StoreCorrupt
from softlabels.sharing.hub import HubReceiver
from softlabels.store.storage.hf_storage import HfStorage
from softlabels.store.storage.read_errors import FETCH, read_errors
from softlabels.store.storage.storage import NewFile, Storage

MAX_SEALED_BYTES = 2**30
"""Bytes of a file that a snapshot or descriptor names by its digest alone; a table of 2**20 units has half of them."""


class Receiver(Protocol):
    """A place that files are copied to. What was stored is visible after `finish` at the latest.

    Attributes:
        storage: Storage to read from what is there already.
    """

    storage: Storage

    def prepare(self) -> None:
        """Make the place ready for a store; does nothing if it is."""

    def create(self) -> NewFile:
        """Start a file that gets its name when it is published."""

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store a small file unless the name is taken; returns True if this call stored it."""

    def replace(self, name: str, data: bytes) -> None:
        """Store a small file that is no part of the sealed store, such as its card; an older one is replaced."""

    def finish(self) -> Storage:
        """Make everything visible and return a storage to read it from."""


class StorageReceiver:
    """Receiver that stores each file at once; see `Receiver`.

    Args:
        storage: Storage of the copy.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def prepare(self) -> None:
        """See `Receiver.prepare`."""
        self.storage.prepare()

    def create(self) -> NewFile:
        """See `Receiver.create`."""
        return self.storage.create()

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Receiver.put_if_absent`."""
        return self.storage.put_if_absent(name, data)

    def replace(self, name: str, data: bytes) -> None:
        """See `Receiver.replace`."""
        replace_file(self.storage, name, data)

    def finish(self) -> Storage:
        """See `Receiver.finish`."""
        return self.storage


def open_receiver(storage: Storage) -> Receiver:
    """Return the receiver of a storage.

    Args:
        storage: Storage of the copy.
    """
    return HubReceiver(storage) if isinstance(storage, HfStorage) else StorageReceiver(storage)


def replace_file(storage: Storage, name: str, data: bytes) -> None:
    """Store a small file that is no part of the sealed store; an older one is replaced in one step, or stays.

    Args:
        storage: Storage of the store.
        name: Name of the file.
        data: Its content.
    """
    file = storage.create()
    try:
        file.write(data)
        file.publish(name)
    finally:
        file.discard()


def copy_file(
    source: Storage, receiver: Receiver, name: str, digest: str, advice: str = FETCH, *, limit: int = MAX_SEALED_BYTES
) -> None:
    """Copy a file unless the receiver has it; it gets its name only if its hash is right.

    Args:
        source: Storage to copy from.
        receiver: Place to copy to.
        name: Name of the file.
        digest: BLAKE3 of its bytes, hexadecimal.
        advice: Sentence for errors that says what to do.
        limit: Greatest size in bytes; a source that never ends must not fill the disk.

    Raises:
        StoreCorrupt: The file is missing, or has other bytes than were sealed, at the source or at the target.
    """
    target = receiver.storage
    if target.info(name) is not None:
        if _hash(target, name) != digest:
            raise StoreCorrupt(f"{target.locate(name)}: has other bytes than were sealed. Delete it and run again")
        return
    hasher, file, size = blake3(), receiver.create(), 0
    try:
        with read_errors(source.locate(name), advice):
            for block in source.read_blocks(name):
                size += len(block)
                if size > limit:
                    raise ValueError(f"it has more than {limit:,} bytes")
                hasher.update(block)
                file.write(block)
            if hasher.hexdigest() != digest:
                raise ValueError("its bytes are not those that were sealed")
        file.publish(name)
    finally:
        file.discard()


def _hash(storage: Storage, name: str) -> str:
    """Return the BLAKE3 of a file, hexadecimal."""
    hasher = blake3()
    for block in storage.read_blocks(name):
        hasher.update(block)
    return str(hasher.hexdigest())
