"""A store in a bucket of an object store: S3, Google Cloud Storage, Azure Blob Storage and what speaks their protocols.

Objects appear whole or not at all, so a new file is collected in a local temporary file and stored by one upload.
`ObjectStorage.put_if_absent` is one conditional request (``If-None-Match: *``). Its outcome is unknown if the response
is lost, and a client that repeats the request is refused by its own first try. Every outcome but success is therefore
settled by reading the object back: equal bytes are this writer's, other bytes another's, and no object means that the
request is repeated. Nothing is deleted on the way.

Chunks are verified as they arrive and stored in a cache that is named by their hashes
(`softlabels.store.storage.range_cache`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from softlabels.errors import StorageFailed, StorageUnsupported
from softlabels.store.storage.object_client import ObjectClient, obstore
from softlabels.store.storage.object_file import ObjectFile
from softlabels.store.storage.object_locks import Lease, ObjectUnitLocks
from softlabels.store.storage.remote_storage import RemoteStorage
from softlabels.store.storage.retries import DEADLINE, Backoff, of_size
from softlabels.store.storage.storage import TEMPORARY, FileInfo, Lock, NewFile, UnitLocks

BLOCK_BYTES = 2**22
"""Least size of the blocks of a file that is read from front to back."""


class ObjectStorage(RemoteStorage):
    """Files of a store below a prefix of a bucket; see `Storage`.

    Args:
        url: URL of the prefix, such as ``s3://bucket/labels``.
        deadline: Seconds after which a verb gives up.

    Attributes:
        has_versions: True if the service gives every object an ETag.

    Raises:
        StorageUnsupported: The package obstore is not installed.
    """

    has_versions: ClassVar[bool] = True
    read_threads: ClassVar[int] = 32

    def __init__(self, url: str, *, deadline: float = DEADLINE) -> None:
        super().__init__(url, deadline=deadline)
        self._client = ObjectClient(self.location, deadline)

    # Reading

    def read(self, name: str, limit: int) -> bytes:
        """See `Storage.read`."""

        def get() -> bytes:
            result = self._checked(obstore().get(self._client.store, name))
            if result.meta["size"] > limit:
                raise ValueError(f"{result.meta['size']:,} bytes, where at most {limit:,} are allowed")
            return of_size(bytes(result.bytes()), result.meta["size"])

        return self._client.repeat(name, get)

    def read_range(self, name: str, offset: int, into: memoryview, *, of: int) -> None:
        """See `Storage.read_range`."""

        def get() -> bytes:
            options = {"range": (offset, offset + len(into))} if len(into) else {"head": True}
            result = self._checked(obstore().get(self._client.store, name, options=options))
            if result.meta["size"] != of:
                raise ValueError(f"it has {result.meta['size']:,} bytes where {of:,} were committed")
            return of_size(bytes(result.bytes()), len(into)) if len(into) else b""

        into[:] = self._client.repeat(name, get)

    def read_blocks(self, name: str) -> Iterator[bytes]:
        """See `Storage.read_blocks`: one request, and one more behind the last byte after each that fails."""
        wait, offset = Backoff(self._deadline), 0
        size: int | None = None
        while size is None or offset < size:
            result = self._get_from(name, offset)
            if size is not None and result.meta["size"] != size:
                raise ValueError(f"it has {result.meta['size']:,} bytes where it had {size:,}")
            size = int(result.meta["size"])
            try:
                for block in result.stream(min_chunk_size=BLOCK_BYTES):
                    yield bytes(block)
                    offset += len(block)
                if offset != size:
                    raise OSError(f"a body that ends at byte {offset:,} of {size:,}")
            except (obstore().exceptions.BaseError, OSError) as error:
                if not wait.again():
                    raise self._client.failure(name, error) from None

    def list_names(self, directory: str) -> list[str]:
        """See `Storage.list_names`."""

        def ask() -> list[str]:
            result = obstore().list_with_delimiter(self._client.store, directory or None)
            names = [entry["path"] for entry in result["objects"]] + list(result["common_prefixes"])
            return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

        return self._list_twice(directory, ask)

    def list_sizes(self, directory: str) -> dict[str, int]:
        """See `Storage.list_sizes`."""

        def ask() -> dict[str, int]:
            result = obstore().list_with_delimiter(self._client.store, directory or None)
            return {entry["path"].rpartition("/")[2]: entry["size"] for entry in result["objects"]}

        return self._client.repeat(directory, ask)

    def walk(self, directory: str) -> Iterator[str]:
        """See `Storage.walk`."""

        def ask() -> list[str]:
            pages = obstore().list(self._client.store, directory or None)
            return sorted(entry["path"] for page in pages for entry in page)

        yield from self._list_twice(directory, ask)

    def info(self, name: str) -> FileInfo | None:
        """See `Storage.info`."""
        try:
            meta = self._head(name)
        except FileNotFoundError:
            return None
        version = f"{meta['size']} {meta.get('e_tag')} {meta.get('version')} {meta['last_modified'].timestamp()}"
        return FileInfo(meta["size"], meta["last_modified"].timestamp(), version)

    def clock(self) -> float:
        """See `Storage.clock`."""
        name = f"{TEMPORARY}/clock-{uuid.uuid4().hex}"
        self.put(name, b"")
        try:
            info = self.info(name)
            if info is None:
                raise StorageFailed(f"{self.locate(name)}: is gone right after it was stored. Run the command again")
            return info.modified
        finally:
            self._delete(name)

    # Writing

    def check_writable(self) -> None:
        """See `Storage.check_writable`; also checks that the service refuses a second conditional request.

        Raises:
            StorageUnsupported: The service ignores ``If-None-Match``, so that two writers could replace each other.
            StorageFailed: The bucket does not exist, or the credentials do not permit writing.
        """
        name = f"{TEMPORARY}/probe-{uuid.uuid4().hex}"
        self.put_if_absent(name, b"first")
        try:
            won = self.put_if_absent(name, b"second")
        finally:
            self._delete(name)
        if won:
            raise StorageUnsupported(
                f"{self}: the service ignores If-None-Match, so two writers could replace each other's records; "
                "nothing was written. Generate to a directory and copy the store"
            )

    def prepare(self) -> None:
        """See `Storage.prepare`; raises as `check_writable` does."""
        self.check_writable()

    def create(self) -> NewFile:
        """See `Storage.create`."""
        return ObjectFile(self)

    def upload(self, name: str, file: Any, size: int) -> None:
        """Store a local file under a name that no other writer uses.

        Args:
            name: Name of the object.
            file: File open for binary reading; read from its start.
            size: Its size in bytes.

        Raises:
            StorageFailed: Nothing was stored.
            StorageUnknown: It is unknown if the file was stored.
        """

        def put() -> None:
            file.seek(0)
            obstore().put(self._client.store, name, file)

        self._client.repeat(name, put, changes=True)
        info = self.info(name)
        if info is None or info.size != size:
            stored = "no object" if info is None else f"{info.size:,} bytes"
            raise StorageFailed(
                f"{self.locate(name)}: was not stored, got {stored}; expected {size:,} bytes. Run it again"
            )

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage.put_if_absent`."""
        exceptions = obstore().exceptions
        wait = Backoff(self._deadline)
        while True:
            try:
                obstore().put(self._client.store, name, data, mode="create", use_multipart=False)
            except (FileNotFoundError, exceptions.NotFoundError) as error:
                raise self._client.refusal(name, error) from None
            except exceptions.BaseError as error:
                if (final := self._client.final(name, error)) is not None:
                    raise final from None
                is_own = self._read_back(name, data, error)
                if is_own is not None:
                    return is_own
                if not wait.again():
                    raise self._client.unknown(name, error) from None
            else:
                return True

    def move(self, source: str, target: str) -> None:
        """See `Storage.move`; copies and deletes, and only maintenance calls it."""
        if self.info(source) is None:
            raise FileNotFoundError(self.locate(source))
        if self.info(target) is not None:
            raise FileExistsError(self.locate(target))
        self._client.repeat(source, lambda: obstore().copy(self._client.store, source, target), changes=True)
        self._delete(source)

    def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        if self.info(name) is None:
            raise FileNotFoundError(self.locate(name))
        self._delete(name)

    def lock(self, name: str) -> Lock:
        """See `Storage.lock`: a lease that its holder renews, and that others may take over when it is old."""
        return Lease.take(self, f"{TEMPORARY}/{name}.lock")

    def claim(self) -> UnitLocks:
        """See `Storage.claim`."""
        return ObjectUnitLocks(self)

    def put(self, name: str, data: bytes, *, replace: str | None = None) -> str | None:
        """Store a small object that may be replaced, such as a lease.

        Args:
            name: Name of the object.
            data: Its content.
            replace: Version to replace, as this method returned it; None: any.

        Returns:
            The version of the object that was stored; None if another version than ``replace`` is there.
        """
        exceptions = obstore().exceptions
        mode: Any = "overwrite" if replace is None else json.loads(replace)
        try:
            result = self._client.repeat(
                name,
                lambda: obstore().put(self._client.store, name, data, mode=mode, use_multipart=False),
                changes=True,
                passing=(exceptions.PreconditionError, exceptions.AlreadyExistsError),
            )
        except (exceptions.PreconditionError, exceptions.AlreadyExistsError):
            return None
        return _version(result)

    def version(self, name: str) -> str | None:
        """Return the version of an object as `put` takes it; None if there is no object."""
        try:
            return _version(self._head(name))
        except FileNotFoundError:
            return None

    def _list_twice(self, directory: str, ask: Callable[[], list[str]]) -> list[str]:
        """Return a listing; an empty one is asked for again, because a login page passes for one."""
        return self._client.repeat(directory, ask) or self._client.repeat(directory, ask)

    def _head(self, name: str) -> Any:
        def head() -> Any:
            meta = obstore().head(self._client.store, name)
            self._check_version(meta)
            return meta

        return self._client.repeat(name, head)

    def _checked(self, result: Any) -> Any:
        """Return a response, once it is sure to come from an object store."""
        self._check_version(result.meta)
        return result

    def _check_version(self, meta: Any) -> None:
        """Raise OSError, which is repeated, for an answer without an ETag, such as the login page of a network."""
        if self.has_versions and not meta.get("e_tag"):
            raise OSError("an answer without an ETag, which no object store gives")

    def _delete(self, name: str) -> None:
        self._client.repeat(name, lambda: obstore().delete(self._client.store, name), changes=True)

    def _get_from(self, name: str, offset: int) -> Any:
        """Return the response with a file from an offset on."""
        options: Any = {"range": {"offset": offset}} if offset else {}
        return self._client.repeat(
            name, lambda: self._checked(obstore().get(self._client.store, name, options=options))
        )

    def _read_back(self, name: str, data: bytes, error: Exception) -> bool | None:
        """Return True if an object holds these bytes, False if it holds others, None if there is no object."""

        def get() -> bool:
            result = self._checked(obstore().get(self._client.store, name))
            if result.meta["size"] != len(data):
                return False
            return of_size(bytes(result.bytes()), len(data)) == data

        try:
            return self._client.repeat(name, get)
        except FileNotFoundError:
            return None
        except StorageFailed:
            raise self._client.unknown(name, error) from None


def _version(meta: Any) -> str:
    """Return what identifies the state of an object: S3 and Azure compare ETags, Google Cloud Storage generations."""
    return json.dumps({name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None})
