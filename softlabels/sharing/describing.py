"""Writing the description of a store, and the files that show it: README.md and croissant.json."""

from __future__ import annotations

from collections.abc import Callable

from softlabels.errors import StorageFailed
from softlabels.sharing.card import CARD, MARKER, render_card
from softlabels.sharing.croissant import (
    CROISSANT,
    hash_files,
    render_croissant,
    sha256_of,
    snapshot_files,
    stated_hashes,
)
from softlabels.sharing.receivers import Receiver, replace_file
from softlabels.store import Store, open_store
from softlabels.store.format import paths
from softlabels.store.format.description import (
    MAX_BYTES,
    Description,
    last_description,
    parse_description,
    write_description,
)
from softlabels.store.storage.read_errors import FETCH, read_errors
from softlabels.store.storage.storage import Location, Storage

MAX_CARD_BYTES = 2**22
Replace = Callable[[str, bytes], None]


def describe(
    location: Location,
    *,
    title: str | None = None,
    license: str | None = None,  # noqa: A002  the word of the hub
    terms: str | None = None,
    data: str | None = None,
    contact: str | None = None,
) -> Description:
    """State the licence, terms, data and contact of a sealed store, and write its card and croissant.json.

    Statements that are not given stay as they are. The digest of the store does not change.

    Args:
        location: Location of the store.
        title: Name of the store for people.
        license: Licence of the labels: an SPDX identifier such as ``CC-BY-4.0``, a URL or a name.
        terms: Terms of use, beyond the licence.
        data: Data statement: source, consent and personal data of the inputs.
        contact: Address for questions and removal requests.

    Returns:
        The description of the store.

    Raises:
        StoreNotFound: There is no sealed store.
        InvalidArgument: A text is blank or too long.
        StorageFailed: The storage refused.

    Example:
        >>> import numpy as np, softlabels as sl
        >>> with sl.create("labels", heads={"logits": sl.Head(classes=10, encoding="topk:3")}) as writer:
        ...     rows = writer.append(["a", "b"], {"logits": np.zeros((2, 10), np.float32)})
        >>> sl.describe("labels", license="CC-BY-4.0").license
        'CC-BY-4.0'
    """
    changes = Description(title=title, license=license, terms=terms, data=data, contact=contact)
    store = open_store(location)
    last = last_description(store.storage)
    description = changes if last is None else last[1].updated(changes)
    if description != Description():
        write_description(store.storage, description)
    write_card(store, description, lambda name, content: replace_file(store.storage, name, content))
    hashes = hash_files(store)
    replace_file(store.storage, CROISSANT, render_croissant(store, description, hashes).encode())
    return description


def write_card(store: Store, description: Description, replace: Replace) -> None:
    """Write README.md, unless there is one that somebody wrote by hand.

    Args:
        store: The store.
        description: Statements of its owner.
        replace: Stores a file in place of an older one.
    """
    if is_own_card(store.storage):
        replace(CARD, render_card(store, description).encode())


def is_own_card(storage: Storage) -> bool:
    """Return True if README.md does not exist or was written here.

    Args:
        storage: Storage of the store.

    Raises:
        StorageFailed: The storage refused.
    """
    try:
        return MARKER.encode() in storage.read(CARD, MAX_CARD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except StorageFailed:
        raise
    except (OSError, ValueError):
        return False


def copy_description(source: Store, receiver: Receiver) -> None:
    """Copy the description of a store, and write its card and croissant.json at the target.

    Card and croissant.json are made from the verified store, and not copied: they may be a stranger's.

    Args:
        source: Store to copy from.
        receiver: Place to copy to.
    """
    description = Description()
    for number in paths.description_numbers(source.storage):
        name = paths.description_path(number)
        with read_errors(source.storage.locate(name), FETCH):
            data = source.storage.read(name, MAX_BYTES)
            description = parse_description(data)
        receiver.put_if_absent(name, data)
    if description == Description():
        return
    if is_own_card(receiver.storage):
        receiver.replace(CARD, render_card(source, description).encode())
    hashes = {name: sha256_of(source.storage, name) for name in snapshot_files(source)}
    hashes |= stated_hashes(source.storage, source)
    receiver.replace(CROISSANT, render_croissant(source, description, hashes).encode())
