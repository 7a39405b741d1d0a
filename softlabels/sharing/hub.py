"""Writing a store to a repository of the Hugging Face hub, in few commits.

The hub takes about a hundred commits an hour, so files are uploaded as they come and committed many at a time. A record
is in the commit of its shard or in a later one, and the snapshot is in the last one: a push that was interrupted leaves
a repository without a snapshot of the new units, and uploaded files that the next push does not upload again.

Every commit names its parent. If somebody else commits meanwhile, the push ends with an error. A lost response is
settled by reading the repository.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softlabels.errors import StorageFailed, StorageUnknown, StoreConflict
from softlabels.store.storage.hf_storage import MALFORMED, REPOSITORY_TYPE, HfStorage, hub, hub_refusal
from softlabels.store.storage.retries import DEADLINE, Backoff, error_text
from softlabels.store.storage.storage import Storage
from softlabels.store.storage.system_errors import system_errors

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

COMMIT_FILES = 512
"""Files of a commit."""
COMMIT_BYTES = 4 * 2**30
"""Bytes of a commit, after which an interruption would cost too much."""
MAX_IN_MEMORY = 2**23
"""Bytes of a file that stay in memory; a larger one goes to the temporary directory of the system."""


class HubUnavailable(StorageFailed):
    """The hub did not answer, or answered with an error that may pass."""


class HubReceiver:
    """Receiver that commits many files at a time; see `softlabels.sharing.receivers.Receiver`.

    A repository that does not exist is made, private.

    Args:
        storage: Storage of the repository.
    """

    def __init__(self, storage: HfStorage) -> None:
        self.storage: Storage = storage
        self._repository = storage.repository
        self._directory = storage.directory
        self._url = storage.location
        self._api: HfApi = hub().HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        self._operations: list[CommitOperationAdd] = []
        self._bytes = 0
        self._lock = threading.RLock()
        if storage.revision is not None:
            raise StoreConflict(
                f"{storage}: names a revision, got {storage.revision}; expected none to write to. Push to the branch "
                "main, or name a revision to pull"
            )
        with _hub_errors(self._url):
            if not self._api.repo_exists(self._repository, repo_type=REPOSITORY_TYPE):
                self._api.create_repo(self._repository, repo_type=REPOSITORY_TYPE, private=True, exist_ok=True)
        self._head = storage.commit
        self._names = set(storage.walk(""))

    def prepare(self) -> None:
        """See `Receiver.prepare`."""

    def create(self) -> HubFile:
        """See `Receiver.create`."""
        return HubFile(self)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Receiver.put_if_absent`; what was put is committed with the files before it."""
        with self._lock:
            if name in self._names:
                return False
            self._names.add(name)
        self.replace(name, data)
        return True

    def replace(self, name: str, data: bytes) -> None:
        """See `Receiver.replace`."""
        self._add(name, data, len(data))
        with self._lock:
            if len(self._operations) >= COMMIT_FILES or self._bytes >= COMMIT_BYTES:
                self._commit()

    def upload(self, name: str, content: bytes | Path, size: int) -> None:
        """Upload a file that a later commit names.

        Args:
            name: Name of the file in the store.
            content: Its bytes, or the path of a local file.
            size: Its size in bytes.
        """
        with self._lock:
            self._names.add(name)
        self._add(name, content, size)

    def finish(self) -> Storage:
        """See `Receiver.finish`."""
        with self._lock:
            self._commit()
        directory = f"/{self._directory}" if self._directory else ""
        return HfStorage(f"hf://datasets/{self._repository}@{self._head}{directory}")

    def _add(self, name: str, content: bytes | Path, size: int) -> None:
        path = f"{self._directory}/{name}".strip("/")
        operation = hub().CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
        wait = Backoff(DEADLINE)
        while True:
            try:
                with _hub_errors(f"{self._url}/{name}"), _without_progress():
                    self._api.preupload_lfs_files(
                        self._repository, [operation], repo_type=REPOSITORY_TYPE, num_threads=1
                    )
                break
            except HubUnavailable:
                # Uploads are named by their hash, so that repeating one is safe.
                if not wait.again():
                    raise
        if operation.path_or_fileobj == content and isinstance(content, Path):
            operation.path_or_fileobj = content.read_bytes()  # goes into the commit itself; the file is deleted
        with self._lock:
            self._operations.append(operation)
            self._bytes += size

    def _commit(self) -> None:
        """Commit what was uploaded.

        Raises:
            StoreConflict: Somebody else has committed to the repository.
            StorageFailed: The hub refused.
            StorageUnknown: It is unknown if the files were committed.
        """
        if not self._operations:
            return
        wait = Backoff(DEADLINE)
        names = [operation.path_in_repo for operation in self._operations]
        while True:
            try:
                with _hub_errors(self._url), _without_progress():
                    info = self._api.create_commit(
                        self._repository,
                        self._operations,
                        commit_message=f"Add {len(names)} files of a store of soft labels",
                        repo_type=REPOSITORY_TYPE,
                        parent_commit=self._head,
                    )
                self._head = str(info.oid)
                break
            except StorageFailed as error:
                if self._is_committed(names):
                    break
                if not isinstance(error, HubUnavailable):
                    raise
                if not wait.again():
                    raise StorageUnknown(
                        f"{self._url}: unknown if {len(names)} files were committed, got {error}. Run it again"
                    ) from None
        self._operations, self._bytes = [], 0

    def _is_committed(self, names: list[str]) -> bool:
        """Return True if a commit whose response was lost has been made; its hash is then the new head.

        Raises:
            StoreConflict: Another commit has been made.
        """
        current = HfStorage(f"hf://datasets/{self._repository}")
        if current.commit == self._head:
            return False
        existing = set(current.walk(""))
        with _hub_errors(self._url):
            title = self._api.list_repo_commits(self._repository, repo_type=REPOSITORY_TYPE)[0].title
        if title == f"Add {len(names)} files of a store of soft labels" and existing.issuperset(names):
            self._head = current.commit
            return True
        raise StoreConflict(
            f"{self._url}: somebody else has committed to the repository, got commit {current.commit}; expected "
            f"{self._head}. Run the same command again: what was uploaded is not uploaded again"
        )


class HubFile:
    """A file on its way to a repository; see `softlabels.store.storage.storage.NewFile`.

    Args:
        receiver: Receiver to publish to.
    """

    def __init__(self, receiver: HubReceiver) -> None:
        self._receiver = receiver
        descriptor, name = tempfile.mkstemp(prefix="softlabels-")
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "w+b")
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """See `NewFile.write`."""
        with system_errors(tempfile.gettempdir(), writing=tempfile.gettempdir()):
            self._file.write(data)
        self._size += memoryview(data).nbytes

    def read(self, offset: int, size: int) -> bytes:
        """See `NewFile.read`."""
        self._file.seek(offset)
        data = self._file.read(size)
        self._file.seek(0, os.SEEK_END)
        return data

    def publish(self, name: str) -> None:
        """See `NewFile.publish`; the file is visible after the next commit."""
        with system_errors(tempfile.gettempdir(), writing=tempfile.gettempdir()):
            self._file.flush()
        content = self._path.read_bytes() if self._size <= MAX_IN_MEMORY else self._path
        self._receiver.upload(name, content, self._size)
        self.discard()

    def discard(self) -> None:
        """See `NewFile.discard`."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def _hub_errors(place: str) -> Iterator[None]:
    """Raise StorageFailed for errors of huggingface_hub, HubUnavailable if a retry may help."""
    errors = hub().errors
    try:
        yield
    except (errors.HTTPError, OSError, RuntimeError, *MALFORMED) as error:
        origin = error
        while origin.__cause__ is not None and not isinstance(origin, errors.HTTPError):
            origin = origin.__cause__  # the package wraps errors of requests
        if (refusal := hub_refusal(place, origin)) is not None:
            raise refusal from None
        kind = HubUnavailable if isinstance(origin, errors.HTTPError | OSError) else StorageFailed
        raise kind(f"{place}: was not stored, got {error_text(origin)}. Run the same command again") from None


@contextmanager
def _without_progress() -> Iterator[None]:
    """Hide the progress bars of huggingface_hub: a push has one of its own."""
    utils: Any = hub().utils
    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
