"""Client of an object store: one for each process, with retries and typed errors.

Requests are repeated with exponential backoff and jitter until a deadline. Credentials come from where the clouds' own
tools find them, and are never part of a location, a file or a message.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from softlabels.errors import StorageFailed, StorageUnknown, StorageUnsupported, StoreError
from softlabels.store.storage.aws_profile import profile_options
from softlabels.store.storage.retries import Backoff, error_text

if TYPE_CHECKING:
    from obstore.store import ObjectStore

REQUEST_TIMEOUT = timedelta(seconds=20)
CONNECT_TIMEOUT = timedelta(seconds=5)
ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
"""Variables that permit connections without encryption, such as to a service on this machine."""
REFUSALS = {
    "RequestTimeTooSkewed": "Set the clock of this machine",
    "ExpiredToken": "Renew the credentials, which have expired",
    "TokenRefreshRequired": "Renew the credentials, which have expired",
    "InvalidAccessKeyId": "Check the credentials, which the service does not know",
    "SignatureDoesNotMatch": "Check the credentials, whose secret key is wrong",
}
"""Error codes of services that no retry ends, some with a status that looks like a bad request; and what to do."""

METADATA = ("/latest/api/token", "/latest/meta-data/", "/computeMetadata/", "/metadata/identity/")
"""Paths of the services that give credentials to machines of a cloud. A machine that asks them has no others."""
LOGIN = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run aws configure, or set AWS_SKIP_SIGNATURE=true for a "
    "public bucket",
    "gs": "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "Set AZURE_STORAGE_ACCOUNT_KEY, or run az login and set AZURE_USE_AZURE_CLI=true",
}
"""Sentence on how to log in, by scheme."""

NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
"""Error codes of services for a bucket that does not exist."""
NO_ENCRYPTION = "builder error"
"""Text of obstore for a request by http:// that no variable of ``ALLOW_HTTP`` permits."""

Result = TypeVar("Result")


class ObjectClient:
    """Requests to the objects below a URL.

    Args:
        location: URL, such as ``s3://bucket/labels``.
        deadline: Seconds after which a request is given up.
    """

    def __init__(self, location: str, deadline: float) -> None:
        self.location = location
        self.deadline = deadline
        self._opened: tuple[int, ObjectStore] | None = None
        self._opening = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the connections, which another process opens itself."""
        return {"location": self.location, "deadline": self.deadline}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state in another process."""
        self.__dict__.update(state, _opened=None, _opening=threading.Lock())

    @property
    def store(self) -> ObjectStore:
        """Store of obstore, opened in this process: it must not be used after a fork."""
        with self._opening:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), self._connect())
            return self._opened[1]

    def repeat(
        self,
        name: str,
        request: Callable[[], Result],
        *,
        changes: bool = False,
        passing: tuple[type[Exception], ...] = (),
    ) -> Result:
        """Return the result of a request, which is repeated after errors that may pass.

        Args:
            name: Name of the object.
            request: Sends the request.
            changes: If True, the request changes something, so that a lost response leaves the outcome unknown.
            passing: Errors that the caller handles.

        Raises:
            FileNotFoundError: There is no such object.
            StorageFailed: The service refused, or did not answer until the deadline; nothing was changed.
            StorageUnknown: A request that changes something was not answered.
            StorageUnsupported: The service does not know the request.
        """
        wait = Backoff(self.deadline)
        while True:
            try:
                return request()
            except StoreError:  # StorageFailed is an OSError
                raise
            except passing:
                raise
            except (FileNotFoundError, obstore().exceptions.NotFoundError) as error:
                if changes:
                    raise self.refusal(name, error) from None
                raise FileNotFoundError(f"{self.location}/{name}") from None
            except (obstore().exceptions.BaseError, OSError) as error:
                if (final := self.final(name, error)) is not None:
                    raise final from None
                if not wait.again():
                    raise (self.unknown(name, error) if changes else self.failure(name, error)) from None

    def final(self, name: str, error: Exception) -> StorageFailed | StorageUnsupported | None:
        """Return the typed error for one that no retry ends; None if a retry may help."""
        exceptions = obstore().exceptions
        if isinstance(error, exceptions.NotSupportedError):
            return StorageUnsupported(
                f"{self.location}/{name}: the service does not support the request, got {error_text(error)}; expected "
                "conditional requests and ranges. Copy the store to a directory"
            )
        login = LOGIN.get(self.location.partition(":")[0].lower())
        if login and any(path in str(error) for path in METADATA):
            return StorageFailed(
                f"{self.location}: no credentials, got {error_text(error)} from the metadata service of the machine; "
                f"expected those of the cloud's own tools. {login}"
            )
        if NO_ENCRYPTION in str(error) and "http://" in str(error):
            return StorageFailed(
                f"{self.location}: no encryption, got an endpoint of http://; expected https://. Set "
                f"{_allow_http(self.location)}=true to send credentials and labels without it"
            )
        if any(code in str(error) for code in NO_BUCKET):
            return self.refusal(name, FileNotFoundError(error_text(error)))
        refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        if isinstance(error, refused) or any(code in str(error) for code in REFUSALS):
            return self.refusal(name, error)
        return None

    def refusal(self, name: str, error: Exception) -> StorageFailed:
        """Return the error for a request that the service refused for good."""
        if isinstance(error, FileNotFoundError | obstore().exceptions.NotFoundError):
            return StorageFailed(
                f"{self.location}/{name}: the bucket does not exist, got {error_text(error)}; expected a bucket that "
                "exists. Check its name, or make it with the tools of the service"
            )
        advice = next(
            (text for code, text in REFUSALS.items() if code in str(error)),
            "Check the credentials and the permissions of the bucket",
        )
        return StorageFailed(f"{self.location}/{name}: access was refused, got {error_text(error)}. {advice}")

    def unknown(self, name: str, error: Exception) -> StorageUnknown:
        """Return the error for a request that may have changed something."""
        return StorageUnknown(
            f"{self.location}/{name}: unknown if it was stored, got {error_text(error)}; nothing was deleted. Run the "
            "same command again"
        )

    def failure(self, name: str, error: Exception) -> StorageFailed:
        """Return the error for a request that was repeated in vain and changes nothing."""
        return StorageFailed(
            f"{self.location}/{name}: no answer in {self.deadline:g} s, got {error_text(error)}. Run it again"
        )

    def _connect(self) -> ObjectStore:
        retries = {"max_retries": 5, "retry_timeout": timedelta(seconds=self.deadline)}
        options: Any = {"timeout": REQUEST_TIMEOUT, "connect_timeout": CONNECT_TIMEOUT}
        # Options that are given replace these variables of the services' own tools.
        allowed = any(os.environ.get(name, "").lower() == "true" for name in ALLOW_HTTP)
        options["allow_http"] = allowed or self.location.lower().startswith("http:")
        credentials = profile_options() if self.location.lower().startswith("s3:") else {}
        try:
            return obstore().store.from_url(  # type: ignore[no-any-return]
                self.location, client_options=options, retry_config=retries, **credentials
            )
        except obstore().exceptions.BaseError as error:
            raise StorageFailed(
                f"{self.location}: cannot be opened, got {error_text(error)}; expected a bucket and a prefix. Check "
                "the URL"
            ) from None


def obstore() -> Any:
    """Return the package obstore.

    Raises:
        StorageUnsupported: It is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ModuleNotFoundError as error:
        raise StorageUnsupported(
            "object stores: the package obstore is not installed. Run pip install 'softlabels[remote]'"
        ) from error
    return obstore


def _allow_http(location: str) -> str:
    """Return the variable that permits connections without encryption to a location."""
    return {"gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}.get(location.partition(":")[0].lower(), ALLOW_HTTP[0])
