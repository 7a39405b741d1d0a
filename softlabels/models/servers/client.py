"""HTTP client of a server that runs a teacher: retries with jitter, a deadline, and a key that never leaves it.

The key comes from the environment alone. It is sent as a header, and is removed from whatever a message quotes of an
answer.
"""

from __future__ import annotations

import functools
import json
import os
import random
import time
import weakref
from typing import TYPE_CHECKING, Any

from softlabels.errors import InvalidArgument, TeacherUnavailable

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable of the key; servers without a key need none."""

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
"""Status codes of conditions that pass."""

FIRST_WAIT = 0.25
MAX_WAIT = 30.0
"""Seconds before the first retry, which double with each, and their upper bound."""

CONNECT_SECONDS = 10.0
SHOWN = 200
"""Characters of an answer that a message quotes."""


class Client:
    """Client of one server; may be used by several threads at once.

    Args:
        url: Base URL, e.g. ``http://localhost:8000/v1``.
        deadline: Seconds that a request may take, retries included.
        connections: Number of requests at a time.

    Raises:
        InvalidArgument: The library httpx is not installed.
    """

    def __init__(self, url: str, *, deadline: float, connections: int) -> None:
        try:
            import httpx
        except ImportError:
            raise InvalidArgument(
                "openai:URL#MODEL: needs the library httpx, which is not installed. Run pip install "
                "'softlabels[server]'"
            ) from None
        self.url = url
        self._deadline = deadline
        self._connections = connections
        self._key = os.environ.get(KEY_VARIABLE, "")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(deadline, connect=min(CONNECT_SECONDS, deadline)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        weakref.finalize(self, self._http.close)

    def __reduce__(self) -> tuple[Any, ...]:
        # The key does not travel: the other process reads its own environment.
        return functools.partial(Client, self.url, deadline=self._deadline, connections=self._connections), ()

    def get(self, path: str) -> Any | None:
        """Return the JSON value at a path; None if there is none.

        Args:
            path: Path below the base URL, or an absolute one that starts with ``/``.

        Raises:
            TeacherUnavailable: As for ``post``.
        """
        return self._request("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any | None:
        """Return the JSON value that a server answers; None if it does not know the path.

        Args:
            path: Path below the base URL, or an absolute one that starts with ``/``.
            body: JSON object to send.

        Raises:
            TeacherUnavailable: The server cannot be reached before the deadline, refuses the request, or does not
                answer with JSON.
        """
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any | None:
        import httpx

        end, wait = time.monotonic() + self._deadline, FIRST_WAIT
        while True:
            asked_to_wait = 0.0
            try:
                response = self._http.request(
                    method, self._locate(path), json=body, timeout=max(0.1, end - time.monotonic())
                )
                if response.status_code not in RETRIED:
                    return self._value(response)
                problem, asked_to_wait = f"status {response.status_code}", _retry_after(response)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            pause = max(asked_to_wait, random.uniform(wait / 2, wait))  # noqa: S311  spreads retries, no secret
            if time.monotonic() + pause >= end:
                raise TeacherUnavailable(
                    f"{self.url}: the server is not available, got {self.hide(problem)}; expected an answer within "
                    f"{self._deadline:g} s. Committed units stay in the store: run the same command again later"
                ) from None
            time.sleep(pause)
            wait = min(2 * wait, MAX_WAIT)

    def _locate(self, path: str) -> str:
        """Return the URL of a path; one that starts with a slash is at the root of the server."""
        if not path.startswith("/"):
            return f"{self.url.rstrip('/')}/{path}"
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}{path}"

    def _value(self, response: httpx.Response) -> Any | None:
        """Return the JSON value of a response."""
        text = self.hide(response.text[: 4 * SHOWN]).strip().replace("\n", " ")[:SHOWN]
        if response.status_code in {401, 403}:
            raise TeacherUnavailable(
                f"{self.url}: the server refuses the key, got status {response.status_code}: {text}; expected a key of "
                f"this server in the environment variable {KEY_VARIABLE}"
            )
        if response.status_code in {404, 405}:
            return None
        if response.status_code >= 300:
            raise TeacherUnavailable(
                f"{self.url}: the server refuses the request, got status {response.status_code}: {text}; expected "
                "completions with prompt log-probabilities. Correct the URL, the model or its options"
            )
        try:
            value: Any = json.loads(response.content)
        except ValueError:
            kind = response.headers.get("content-type", "no content type")
            raise TeacherUnavailable(
                f"{self.url}: not an answer of this protocol, got {kind}: {text!r}; expected JSON. Correct the URL"
            ) from None
        return value

    def hide(self, text: str) -> str:
        """Return a text without the key.

        Args:
            text: Text of a message.
        """
        return text.replace(self._key, "***") if self._key else text


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds that a server says to wait; 0 without a number."""
    try:
        return min(MAX_WAIT, max(0.0, float(response.headers.get("retry-after", 0))))
    except ValueError:
        return 0.0
