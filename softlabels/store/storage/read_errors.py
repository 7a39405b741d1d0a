"""Errors of readers: a file of a store is missing or damaged, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from softlabels.errors import StoreCorrupt, StoreError, StoreUnsupported

REPAIR = "run softlabels repair, then generate again to make the unit anew, or fetch the store again"
FETCH = (
    "fetch it again from where the store came from; if this is the only copy, delete the store and generate it again"
)
DESCRIPTOR = (
    "fetch it again from where the store came from, or delete it and run the generate command that made the store"
)
SEAL = "run softlabels repair, then softlabels seal, which makes it anew, or fetch the store again"


@contextmanager
def read_errors(path: str, advice: str, missing: type[StoreError] = StoreCorrupt, detail: str = "") -> Iterator[None]:
    """Raise StoreCorrupt for what goes wrong while a file is read and parsed.

    Args:
        path: Location of the file, for messages.
        advice: Sentence that says what to do.
        missing: Error to raise if there is no such file.
        detail: Part of the file, for messages, such as ``, chunk 3``.

    Raises:
        StoreCorrupt: The file is damaged.
    """
    try:
        yield
    except StoreUnsupported as error:
        raise StoreUnsupported(f"{path}: {error}") from None
    except StoreError:  # typed already; also what the system refused, which is no damage
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise missing(f"{path} is missing; {advice}") from None
    except (ValueError, OSError) as error:
        raise StoreCorrupt(f"{path}{detail} is damaged: {error}; {advice}") from error


def without_advice(error: StoreError, path: str) -> str:
    """Return the message of an error of reading, without the file that it begins with and the advice that it ends with.

    Args:
        error: Error of ``read_errors``.
        path: Location of the file, which is shown beside the message.

    Example:
        >>> without_advice(StoreCorrupt(f"s/a.json is damaged: no JSON; {REPAIR}"), "s/a.json")
        'it is damaged: no JSON'
        >>> without_advice(StoreCorrupt(f"s/a.json is missing; {FETCH}"), "s/a.json")
        'it is missing'
        >>> without_advice(StoreCorrupt(f"s/a.zip, chunk 3 is damaged: no data; {REPAIR}"), "s/a.zip")
        'chunk 3 is damaged: no data'
    """
    text = str(error)
    for advice in (REPAIR, FETCH, DESCRIPTOR, SEAL):
        text = text.partition(f"; {advice}")[0]
    problem = text.removeprefix(path).removeprefix(", ")
    return f"it{problem}" if problem.startswith(" is ") else problem
