"""What readers of a store's files raise: missing or damaged, the file, and what to do; told from a failing machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softlabels.errors import StoreCorrupt, StoreError, StoreUnsupported

MEND = "run softlabels repair, then generate again to fill the hole, or fetch the store again"
FETCH = "fetch it again from where the store came from"
SEAL = "run softlabels seal, or fetch it again"


@contextmanager
def refused(path: Path, mend: str, missing: type[StoreError] = StoreCorrupt, what: str = "") -> Iterator[None]:
    """Turn what goes wrong while a file is read and parsed into StoreCorrupt.

    Args:
        path: the file.
        mend: what to do.
        missing: raised where the file is not there.
        what: part of it, for the message.

    Raises:
        StoreCorrupt: it is damaged.
    """
    try:
        yield
    except StoreUnsupported as error:
        raise StoreUnsupported(f"{path}: {error}") from None
    except StoreError:  # said already; also what the operating system refused, which is no damage
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise missing(f"{path} is missing; {mend}") from None
    except (ValueError, OSError) as error:
        raise StoreCorrupt(f"{path}{what} is damaged: {error}; {mend}") from error
