"""Retries of requests to a remote storage: waiting times, complete bodies, and errors without secrets."""

from __future__ import annotations

import random
import re
import time

DEADLINE = 60.0
"""Seconds after which a verb gives up."""
FIRST_DELAY = 0.1
MAX_DELAY = 5.0
MAX_TEXT = 300
"""Characters of a foreign error that a message shows."""
STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
"""Status and code in the answer of an object store."""
QUERY = re.compile(r"\?[^\s\"']*")
"""Query strings of URLs, which may hold a signature or a token."""


class Backoff:
    """Waits between tries: exponential with full jitter, until a deadline.

    Args:
        seconds: Seconds until the deadline.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._delay = FIRST_DELAY

    def again(self) -> bool:
        """Wait for the next try; returns False after the deadline."""
        delay = random.uniform(0, self._delay)  # noqa: S311  spreads retries, guards nothing
        self._delay = min(self._delay * 2, MAX_DELAY)
        if time.monotonic() + delay > self._end:
            return False
        time.sleep(delay)
        return True


def of_size(data: bytes, size: int) -> bytes:
    """Return bytes of the expected size.

    Args:
        data: Body of a response.
        size: Size that was announced.

    Raises:
        OSError: The body was cut short, or is too long; the request is to be repeated.
    """
    if len(data) != size:
        raise OSError(f"a body of {len(data):,} bytes where {size:,} were announced")
    return data


def error_text(error: BaseException) -> str:
    """Return the status and code of an answer, or the first line of an error without query strings.

    Query strings may hold secrets.

    Args:
        error: Error of another library.

    Example:
        >>> error_text(OSError("PUT failed: status code: 403 Forbidden: <Error><Code>AccessDenied</Code></Error>"))
        '403 Forbidden, AccessDenied'
        >>> error_text(OSError("GET https://host/labels?token=abc failed"))
        'GET https://host/labels failed'
    """
    if status := STATUS.search(str(error)):
        code = CODE.search(str(error))
        return f"{status[1].strip()}, {code[1]}" if code else status[1].strip()
    first = str(error).strip().split("\n")[0]
    return QUERY.sub("", first)[:MAX_TEXT] or type(error).__name__
