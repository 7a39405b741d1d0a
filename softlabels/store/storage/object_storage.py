"""A store in a bucket of an object store: S3, Google Cloud Storage, Azure Blob Storage and what speaks their protocols.

Objects appear whole or not at all, so a new file is collected in a local temporary file and stored by one upload.
`ObjectStorage.put_if_absent` is one conditional request (``If-None-Match: *``). Its outcome is unknown if the response
is lost, and a client that repeats the request is refused by its own first try. Every outcome but success is therefore
settled by reading the object back: equal bytes are this writer's, other bytes another's, and no object means that the
request is repeated. Nothing is deleted on the way.

Requests are repeated with exponential backoff and jitter until a deadline. Chunks are verified as they arrive and kept
in a cache that is named by their hashes (`softlabels.store.storage.range_cache`). Credentials come from where the
clouds' own tools find them, and are never part of a location, a file or a message.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from blake3 import blake3

from softlabels.errors import StorageFailed, StorageUnknown, StorageUnsupported
from softlabels.store.storage.object_file import ObjectFile
from softlabels.store.storage.object_locks import Lease, ObjectUnitLocks
from softlabels.store.storage.range_cache import RangeCache
from softlabels.store.storage.storage import TEMPORARY, FileInfo, Storage

if TYPE_CHECKING:
    from obstore.store import ObjectStore

BLOCK_BYTES = 2**22
"""Size of the ranges of a file that is read from front to back."""
DEADLINE = 60.0
"""Seconds after which a verb gives up."""
REQUEST_TIMEOUT = timedelta(seconds=20)
FETCHES = 3
"""Times that a chunk is fetched before its bytes are taken to be damaged."""
QUERY = re.compile(r"\?[^\s\"']*")
"""Query strings of URLs, which may hold a signature or a token."""

Result = TypeVar("Result")


class ObjectStorage(Storage):
    """Files of a store below a prefix of a bucket; see `Storage`.

    Args:
        url: URL of the prefix, such as ``s3://bucket/labels``.
        deadline: Seconds after which a verb gives up.

    Raises:
        StorageUnsupported: The package obstore is not installed.
    """

    def __init__(self, url: str, *, deadline: float = DEADLINE) -> None:
        self.location = url.rstrip("/")
        self._deadline = deadline
        self._cache = RangeCache.of_user()
        self._opened: tuple[int, ObjectStore] | None = None
        self._opening = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the client, which another process opens itself."""
        return {"location": self.location, "_deadline": self._deadline, "_cache": self._cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state in another process."""
        self.__dict__.update(state, _opened=None, _opening=threading.Lock())

    @property
    def identity(self) -> str:
        """URL of the store."""
        return self.location

    # Reading

    def read(self, name: str, limit: int) -> bytes:
        """See `Storage.read`."""

        def get() -> bytes:
            result = _obstore().get(self._client(), name)
            if result.meta["size"] > limit:
                raise ValueError(f"{result.meta['size']:,} bytes, where at most {limit:,} are allowed")
            return _of_size(bytes(result.bytes()), result.meta["size"])

        return self._repeat(name, get)

    def read_range(self, name: str, offset: int, into: memoryview, *, of: int) -> None:
        """See `Storage.read_range`."""

        def get() -> bytes:
            options = {"range": (offset, offset + len(into))} if len(into) else {"head": True}
            result = _obstore().get(self._client(), name, options=options)
            if result.meta["size"] != of:
                raise ValueError(f"it has {result.meta['size']:,} bytes where {of:,} were committed")
            return _of_size(bytes(result.bytes()), len(into)) if len(into) else b""

        into[:] = self._repeat(name, get)

    def read_verified(self, name: str, offset: int, into: memoryview, *, of: int, digest: str) -> None:
        """See `Storage.read_verified`: from the cache, or fetched up to three times."""
        if self._cache.read(digest, into):
            return
        for _ in range(FETCHES):
            self.read_range(name, offset, into, of=of)
            if blake3(into).hexdigest() == digest:
                self._cache.write(digest, into)
                return
        raise ValueError(f"bytes {offset:,} to {offset + len(into):,} are not what was committed, {FETCHES} times")

    def read_blocks(self, name: str) -> Iterator[bytes]:
        """See `Storage.read_blocks`."""
        size, offset = self._size(name), 0
        while offset < size:
            block = bytearray(min(BLOCK_BYTES, size - offset))
            self.read_range(name, offset, memoryview(block), of=size)
            yield bytes(block)
            offset += len(block)

    def list_names(self, directory: str) -> list[str]:
        """See `Storage.list_names`."""

        def ask() -> list[str]:
            result = _obstore().list_with_delimiter(self._client(), directory or None)
            names = [entry["path"] for entry in result["objects"]] + list(result["common_prefixes"])
            return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

        return self._repeat(directory, ask)

    def walk(self, directory: str) -> Iterator[str]:
        """See `Storage.walk`."""

        def ask() -> list[str]:
            pages = _obstore().list(self._client(), directory or None)
            return sorted(entry["path"] for page in pages for entry in page)

        yield from self._repeat(directory, ask)

    def info(self, name: str) -> FileInfo | None:
        """See `Storage.info`."""
        try:
            meta = self._repeat(name, lambda: _obstore().head(self._client(), name))
        except FileNotFoundError:
            return None
        version = f"{meta['size']} {meta.get('e_tag')} {meta.get('version')} {meta['last_modified'].timestamp()}"
        return FileInfo(meta["size"], meta["last_modified"].timestamp(), version)

    def clock(self) -> float:
        """See `Storage.clock`."""
        name = f"{TEMPORARY}/clock-{uuid.uuid4().hex}"
        self._put(name, b"")
        try:
            info = self.info(name)
            if info is None:
                raise StorageFailed(f"{self.locate(name)}: is gone right after it was stored. Run the command again")
            return info.modified
        finally:
            self._delete(name)

    # Writing

    def prepare(self) -> None:
        """See `Storage.prepare`; also checks that the service refuses a second conditional request.

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

    def create(self) -> ObjectFile:
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
            _obstore().put(self._client(), name, file)

        self._repeat(name, put, changes=True)
        info = self.info(name)
        if info is None or info.size != size:
            got = "no object" if info is None else f"{info.size:,} bytes"
            raise StorageFailed(
                f"{self.locate(name)}: was not stored, got {got}; expected {size:,} bytes. Run it again"
            )

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage.put_if_absent`."""
        exceptions = _obstore().exceptions
        wait = _Backoff(self._deadline)
        while True:
            try:
                _obstore().put(self._client(), name, data, mode="create", use_multipart=False)
            except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
                raise self._refused(name, error) from None
            except exceptions.NotSupportedError as error:
                raise self._unsupported(name, error) from None
            except exceptions.BaseError as error:
                stored = self._read_back(name, error)
                if stored is not None:
                    return stored == data
                if not wait.again():
                    raise self._unknown(name, error) from None
            else:
                return True

    def settle(self, directory: str) -> None:
        """See `Storage.settle`; objects are durable when they are visible."""

    def move(self, source: str, target: str) -> None:
        """See `Storage.move`; copies and deletes, and only maintenance calls it."""
        if self.info(source) is None:
            raise FileNotFoundError(self.locate(source))
        if self.info(target) is not None:
            raise FileExistsError(self.locate(target))
        self._repeat(source, lambda: _obstore().copy(self._client(), source, target), changes=True)
        self._delete(source)

    def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        if self.info(name) is None:
            raise FileNotFoundError(self.locate(name))
        self._delete(name)

    def lock(self, name: str) -> Lease:
        """See `Storage.lock`: a lease that its holder renews, and that others may take over when it is old."""
        return Lease.take(self, f"{TEMPORARY}/{name}.lock")

    def claim(self) -> ObjectUnitLocks:
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
        exceptions = _obstore().exceptions
        mode: Any = "overwrite" if replace is None else {"e_tag": replace}
        try:
            result = self._repeat(
                name,
                lambda: _obstore().put(self._client(), name, data, mode=mode, use_multipart=False),
                changes=True,
                passing=(exceptions.PreconditionError, exceptions.AlreadyExistsError),
            )
        except (exceptions.PreconditionError, exceptions.AlreadyExistsError):
            return None
        return str(result["e_tag"])

    def version(self, name: str) -> str | None:
        """Return the version of an object as `put` takes it; None if there is no object."""
        try:
            return str(self._repeat(name, lambda: _obstore().head(self._client(), name))["e_tag"])
        except FileNotFoundError:
            return None

    # Requests

    def _client(self) -> ObjectStore:
        """Return the client of this process: a client must not be used after a fork."""
        with self._opening:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), self._connect())
            return self._opened[1]

    def _connect(self) -> ObjectStore:
        retries = {"max_retries": 5, "retry_timeout": timedelta(seconds=self._deadline)}
        options: Any = {"timeout": REQUEST_TIMEOUT, "connect_timeout": timedelta(seconds=5)}
        # Options that are given replace this variable of the service's own tools.
        allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
        options["allow_http"] = allowed or self.location.lower().startswith("http:")
        try:
            return _obstore().store.from_url(self.location, client_options=options, retry_config=retries)  # type: ignore[no-any-return]
        except _obstore().exceptions.BaseError as error:
            raise StorageFailed(
                f"{self}: cannot be opened, got {_text(error)}; expected a bucket and a prefix"
            ) from None

    def _repeat(
        self,
        name: str,
        request: Callable[[], Result],
        *,
        changes: bool = False,
        passing: tuple[type[Exception], ...] = (),
    ) -> Result:
        """Return the result of a request, which is repeated after errors that may pass.

        Raises:
            FileNotFoundError: There is no such object.
            StorageFailed: The service refused, or did not answer until the deadline; nothing was changed.
            StorageUnknown: A request that changes something was not answered.
        """
        exceptions = _obstore().exceptions
        wait = _Backoff(self._deadline)
        while True:
            try:
                return request()
            except passing:
                raise
            except (FileNotFoundError, exceptions.NotFoundError):
                raise FileNotFoundError(self.locate(name)) from None
            except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
                raise self._refused(name, error) from None
            except exceptions.NotSupportedError as error:
                raise self._unsupported(name, error) from None
            except (exceptions.BaseError, OSError) as error:
                if not wait.again():
                    raise (self._unknown(name, error) if changes else self._failed(name, error)) from None

    def _put(self, name: str, data: bytes) -> None:
        self._repeat(name, lambda: _obstore().put(self._client(), name, data, use_multipart=False), changes=True)

    def _delete(self, name: str) -> None:
        self._repeat(name, lambda: _obstore().delete(self._client(), name), changes=True)

    def _size(self, name: str) -> int:
        info = self.info(name)
        if info is None:
            raise FileNotFoundError(self.locate(name))
        return info.size

    def _read_back(self, name: str, error: Exception) -> bytes | None:
        """Return the object after a conditional request that did not succeed; None if there is none."""
        try:
            return self._repeat(name, lambda: bytes(_obstore().get(self._client(), name).bytes()))
        except FileNotFoundError:
            return None
        except StorageFailed:
            raise self._unknown(name, error) from None

    def _refused(self, name: str, error: Exception) -> StorageFailed:
        return StorageFailed(
            f"{self.locate(name)}: access was refused, got {_text(error)}. Check the credentials and the permissions "
            "of the bucket"
        )

    def _unsupported(self, name: str, error: Exception) -> StorageUnsupported:
        return StorageUnsupported(
            f"{self.locate(name)}: the service does not support the request, got {_text(error)}; expected conditional "
            "requests and ranges. Copy the store to a directory"
        )

    def _failed(self, name: str, error: Exception) -> StorageFailed:
        return StorageFailed(
            f"{self.locate(name)}: no answer in {self._deadline:g} s, got {_text(error)}. Run it again"
        )

    def _unknown(self, name: str, error: Exception) -> StorageUnknown:
        return StorageUnknown(
            f"{self.locate(name)}: unknown if it was stored, got {_text(error)}; nothing was deleted. Run the same "
            "command again"
        )


class _Backoff:
    """Waits between tries: exponential with full jitter, until a deadline."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._delay = 0.1

    def again(self) -> bool:
        """Wait for the next try; returns False after the deadline."""
        delay = random.uniform(0, self._delay)  # noqa: S311  spreads retries, guards nothing
        self._delay = min(self._delay * 2, 5.0)
        if time.monotonic() + delay > self._end:
            return False
        time.sleep(delay)
        return True


def _of_size(data: bytes, size: int) -> bytes:
    """Return bytes of the expected size; OSError, which is repeated, for a body that was cut short."""
    if len(data) != size:
        raise OSError(f"a body of {len(data):,} bytes where {size:,} were announced")
    return data


def _text(error: BaseException) -> str:
    """Return the first line of an error without query strings, which may hold secrets."""
    first = str(error).strip().split("\n")[0]
    return QUERY.sub("", first)[:300] or type(error).__name__


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise StorageUnsupported(
            "object stores: the package obstore is not installed. Run pip install 'softlabels[remote]'"
        ) from error


def _obstore() -> Any:
    """Return the package obstore.

    Raises:
        StorageUnsupported: It is not installed.
    """
    with _installed():
        import obstore
        import obstore.exceptions
        import obstore.store
    return obstore
