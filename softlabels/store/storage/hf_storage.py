"""A store in a data set repository of the Hugging Face hub, read only.

The revision is resolved to a commit on first use, and everything is read at that commit, also in other processes. So a
reader sees one state of the repository whoever commits to it. To write to a repository, push a store
(`softlabels.sharing`), which makes few commits of many files.

Credentials come from where the hub's own tools find them (``HF_TOKEN``, ``hf auth login``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import quote

from softlabels.errors import InvalidArgument, StorageFailed, StorageUnsupported, StoreError
from softlabels.store.storage.remote_storage import ReadOnly, RemoteStorage
from softlabels.store.storage.retries import DEADLINE, Backoff, error_text
from softlabels.store.storage.storage import FileInfo

if TYPE_CHECKING:
    from huggingface_hub import HfApi

URL = re.compile(
    r"hf:/+datasets/(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[^/@]+))?(?:/(?P<path>.+))?", re.IGNORECASE
)
REPOSITORY_TYPE = "dataset"
BLOCK_BYTES = 2**22
TIMEOUT = 20.0
"""Seconds to wait for a response to begin or go on."""
REFUSED = {401, 403}
COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_FILES = 2**22
"""More files than a store has; a longer listing is not one of a store."""
MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""Errors of huggingface_hub where an answer is not what it expects."""
PARTIAL = 206
RANGE_NOT_SATISFIABLE = 416

Result = TypeVar("Result")


class HfStorage(ReadOnly, RemoteStorage):
    """Files of a store in a repository; see `Storage`.

    Args:
        url: URL of the store, such as ``hf://datasets/team/labels`` or, at a commit and in a directory of the
            repository, ``hf://datasets/team/labels@abc123/imagenet``.
        deadline: Seconds after which a verb gives up.

    Attributes:
        repository: Owner and name of the repository.
        directory: Directory of the store in the repository; empty for its top.

    Raises:
        InvalidArgument: The URL names no repository of data sets.

    Example:
        >>> HfStorage("hf://datasets/team/labels").repository
        'team/labels'
    """

    read_threads: ClassVar[int] = 8
    read_only_reason = "a store on the hub is read only. Write to a directory or a bucket, then run softlabels push"

    def __init__(self, url: str, *, deadline: float = DEADLINE) -> None:
        super().__init__(url, deadline=deadline)
        match = URL.fullmatch(self.location)
        if match is None:
            raise InvalidArgument(
                f"{url}: names no repository; expected hf://datasets/OWNER/NAME, hf://datasets/OWNER/NAME@REVISION or "
                "hf://datasets/OWNER/NAME/DIRECTORY"
            )
        self.repository = match["repo"]
        self.directory = (match["path"] or "").strip("/")
        self.revision = match["revision"]
        self._commit: str | None = None
        self._modified = 0.0

    @property
    def identity(self) -> str:
        """URL with the commit that is read."""
        return self.origin

    @property
    def origin(self) -> str:
        """See `Storage.origin`."""
        directory = f"/{self.directory}" if self.directory else ""
        return f"hf://datasets/{self.repository}@{self.commit}{directory}"

    @property
    def commit(self) -> str:
        """Hash of the commit that is read.

        Raises:
            StorageFailed: There is no such repository or revision, or it may not be read.
        """
        if self._commit is None:
            self._commit, self._modified = self._repeat("", self._show)
        return self._commit

    # Reading

    def read(self, name: str, limit: int) -> bytes:
        """See `Storage.read`."""

        def get() -> bytes:
            with self._response(name) as response:
                size = _size(response)
                if size > limit:
                    raise ValueError(f"{size:,} bytes, where at most {limit:,} are allowed")
                return _body(response, size)

        return self._repeat(name, get)

    def read_range(self, name: str, offset: int, into: memoryview, *, of: int) -> None:
        """See `Storage.read_range`."""
        if not len(into):
            info = self.info(name)
            if info is None:
                raise FileNotFoundError(self.locate(name))
            if info.size != of:
                raise ValueError(f"it has {info.size:,} bytes where {of:,} were committed")
            return

        def get() -> bytes:
            with self._response(name, f"bytes={offset}-{offset + len(into) - 1}") as response:
                if response.status_code != PARTIAL:
                    raise ValueError("the service ignored the range of the request")
                size = int(response.headers.get("content-range", "").rpartition("/")[2] or -1)
                if size != of:
                    raise ValueError(f"it has {size:,} bytes where {of:,} were committed")
                return _body(response, len(into))

        into[:] = self._repeat(name, get)

    def read_blocks(self, name: str) -> Iterator[bytes]:
        """See `Storage.read_blocks`."""
        info = self.info(name)
        if info is None:
            raise FileNotFoundError(self.locate(name))
        for offset in range(0, info.size, BLOCK_BYTES):
            block = bytearray(min(BLOCK_BYTES, info.size - offset))
            self.read_range(name, offset, memoryview(block), of=info.size)
            yield bytes(block)

    def list_names(self, directory: str) -> list[str]:
        """See `Storage.list_names`."""
        return sorted(path.rpartition("/")[2] for path in self._tree(directory, recursive=False))

    def walk(self, directory: str) -> Iterator[str]:
        """See `Storage.walk`."""
        prefix = f"{self.directory}/" if self.directory else ""
        yield from sorted(path.removeprefix(prefix) for path in self._tree(directory, recursive=True))

    def info(self, name: str) -> FileInfo | None:
        """See `Storage.info`; the time is that of the commit."""
        path = self._path(name)
        if not path:
            return None
        commit = self.commit

        def ask() -> list[int]:
            with self._answer():
                entries = self._api().get_paths_info(
                    self.repository, [path], revision=commit, repo_type=REPOSITORY_TYPE
                )
                return [_count(entry.size) for entry in entries if hasattr(entry, "size") and entry.path == path]

        sizes = self._repeat(name, ask)
        return FileInfo(sizes[0], self._modified, commit) if sizes else None

    def clock(self) -> float:
        """See `Storage.clock`; the time of the commit, since nothing changes behind it."""
        return self._modified if self.commit else 0.0

    # Requests

    def _api(self) -> HfApi:
        return hub().HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def _show(self) -> tuple[str, float]:
        """Return the hash of the commit that the revision names now, and its time."""
        with self._answer():
            info = self._api().dataset_info(self.repository, revision=self.revision, timeout=TIMEOUT)
            if not COMMIT.fullmatch(str(info.sha)):
                raise ValueError(f"the commit {info.sha!r:.60}")
            return str(info.sha), info.last_modified.timestamp() if info.last_modified is not None else 0.0

    @contextmanager
    def _answer(self) -> Iterator[None]:
        """Raise StorageFailed for an answer that the hub's own package cannot read."""
        try:
            yield
        except MALFORMED as error:
            if isinstance(error, OSError | hub().errors.HTTPError):
                raise
            raise StorageFailed(
                f"{self}: the answer is not one of the hub, got {type(error).__name__}: {error_text(error)}. Check the "
                "address in HF_ENDPOINT, and the network"
            ) from None

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}".strip("/")

    def _tree(self, directory: str, *, recursive: bool) -> list[str]:
        path, commit = self._path(directory), self.commit

        def ask() -> list[str]:
            with self._answer():
                entries = self._api().list_repo_tree(
                    self.repository, path or None, recursive=recursive, revision=commit, repo_type=REPOSITORY_TYPE
                )
                names = [
                    str(entry.path) for entry in islice(entries, MAX_FILES) if not recursive or hasattr(entry, "size")
                ]
                if len(names) == MAX_FILES:
                    raise ValueError(f"a directory of {MAX_FILES:,} files and more")
                return names

        try:
            return self._repeat(directory, ask)
        except FileNotFoundError:
            return []

    @contextmanager
    def _response(self, name: str, byte_range: str | None = None) -> Iterator[Any]:
        """Yield a response with the body of a file still to be read."""
        package = hub()
        endpoint = self._api().endpoint
        url = f"{endpoint}/datasets/{self.repository}/resolve/{self.commit}/{quote(self._path(name))}"
        headers = package.utils.build_hf_headers() | {"Accept-Encoding": "identity"}
        if byte_range is not None:
            headers["Range"] = byte_range
        with package.get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            package.utils.hf_raise_for_status(response)
            yield response

    def _repeat(self, name: str, request: Callable[[], Result]) -> Result:
        """Return the result of a request, which is repeated after errors that may pass.

        Raises:
            FileNotFoundError: There is no such file at the commit.
            StorageFailed: The hub refused, or did not answer until the deadline.
        """
        errors = hub().errors
        wait = Backoff(self._deadline)
        while True:
            try:
                return request()
            except StoreError:  # StorageFailed is an OSError
                raise
            except (errors.EntryNotFoundError, FileNotFoundError):
                raise FileNotFoundError(self.locate(name)) from None
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
                raise StorageFailed(
                    f"{self}: there is no such repository or revision, or it is private, got {error_text(error)}. "
                    "Check the name, or log in with hf auth login"
                ) from None
            except errors.OfflineModeIsEnabled as error:
                raise StorageFailed(f"{self}: {error_text(error)}. Unset HF_HUB_OFFLINE") from None
            except (errors.HTTPError, OSError) as error:
                if _status(error) == RANGE_NOT_SATISFIABLE:
                    raise ValueError("it ends before the range does") from None
                if (refusal := hub_refusal(self.locate(name), error)) is not None:
                    raise refusal from None
                if not wait.again():
                    raise StorageFailed(
                        f"{self.locate(name)}: no answer in {self._deadline:g} s, got {error_text(error)}. Run it again"
                    ) from None


def hub_refusal(place: str, error: BaseException) -> StorageFailed | None:
    """Return the typed error for a request that the hub refuses for good; None if a retry may help.

    Args:
        place: Location, for the message.
        error: Error of huggingface_hub.
    """
    if _status(error) not in REFUSED:
        return None
    return StorageFailed(
        f"{place}: access was refused, got {error_text(error)}. Log in with hf auth login, or set HF_TOKEN to a token "
        "with the permission"
    )


def _status(error: BaseException) -> int | None:
    """Return the status of the response that an error is about; None if there was no response."""
    return getattr(getattr(error, "response", None), "status_code", None)


def hub() -> Any:
    """Return the package huggingface_hub.

    Raises:
        StorageUnsupported: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ModuleNotFoundError as error:
        raise StorageUnsupported(
            "stores on the hub: the package huggingface_hub is not installed. Run pip install 'softlabels[hub]'"
        ) from error
    return huggingface_hub


def _count(size: Any) -> int:
    """Return the size of a file in an answer.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"a file of {size!r:.40} bytes")
    return size


def _size(response: Any) -> int:
    """Return the size that a response announces.

    Raises:
        OSError: It announces none.
    """
    size = response.headers.get("content-length", "")
    if not size.isdecimal():
        raise OSError("a response without a length")
    return int(size)


def _body(response: Any, size: int) -> bytes:
    """Return the body of a response, which must have ``size`` bytes.

    Raises:
        OSError: It has more or fewer.
    """
    body = bytearray()
    for block in response.iter_bytes():
        body += block
        if len(body) > size:
            break
    if len(body) != size:
        raise OSError(f"a body of {len(body):,} bytes where {size:,} were announced")
    return bytes(body)
