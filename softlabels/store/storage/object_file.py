"""A file on its way to an object store: collected in a local temporary file, stored by one upload."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from softlabels.store.storage.system_errors import system_errors

if TYPE_CHECKING:
    from softlabels.store.storage.object_storage import ObjectStorage

MAX_IN_MEMORY = 2**24
"""Bytes that are held in memory; a larger file goes to the temporary directory of the system."""


class ObjectFile:
    """A file that has no name yet; see `NewFile`.

    Args:
        storage: Storage to publish to.
    """

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage
        self._file = tempfile.SpooledTemporaryFile(MAX_IN_MEMORY)  # noqa: SIM115  closed by publish or discard
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """See `NewFile.write`."""
        view = memoryview(data).cast("B")
        with system_errors(tempfile.gettempdir(), writing=tempfile.gettempdir()):
            self._file.seek(self._size)
            self._file.write(view)
        self._size += len(view)

    def read(self, offset: int, size: int) -> bytes:
        """See `NewFile.read`."""
        with system_errors(tempfile.gettempdir(), writing=tempfile.gettempdir()):
            self._file.seek(offset)
            return self._file.read(size)

    def publish(self, name: str) -> None:
        """See `NewFile.publish`."""
        self._file.seek(0, os.SEEK_SET)
        self._storage.upload(name, self._file, self._size)
        self._file.close()

    def discard(self) -> None:
        """See `NewFile.discard`."""
        with suppress(OSError):
            self._file.close()
