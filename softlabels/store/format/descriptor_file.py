"""Reading of the descriptor of a store, and of the reason why there is none."""

from __future__ import annotations

from softlabels.errors import StoreCorrupt, StoreNotFound
from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor, parse_descriptor
from softlabels.store.format.limits import MAX_DESCRIPTOR_BYTES
from softlabels.store.storage.read_errors import DESCRIPTOR, read_errors
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.storage import Location, Storage
from softlabels.suggestions import suggest_path


def read_descriptor(storage: Storage) -> Descriptor:
    """Return the descriptor of a store.

    Raises:
        StoreNotFound: There is no store.
        StoreCorrupt: The descriptor is damaged.
        StoreUnsupported: The store needs a newer softlabels.
    """
    descriptor = find_descriptor(storage)
    if descriptor is None:
        raise _not_found(storage)
    return descriptor


def _not_found(storage: Storage) -> StoreNotFound | StoreCorrupt:
    """Return the error of a location without a descriptor: a damaged store, or none."""
    names = storage.list_names("")
    expected = f"expected a directory that holds {paths.DESCRIPTOR}"
    if {paths.RECORDS, paths.SNAPSHOTS} & set(names):
        return StoreCorrupt(
            f"{storage}: the store has lost its {paths.DESCRIPTOR}, which is missing; fetch it again, or run the "
            "generate command that made the store"
        )
    if names:
        return StoreNotFound(
            f"{storage}: not a store of labels, got a directory with {', '.join(names[:3])}; {expected}. Check the path"
        )
    hint = ". Check the path, or make a store with softlabels generate --out"
    kind = "a file" if storage.info("") is not None else "an empty directory, or no directory"
    return StoreNotFound(
        f"{storage}: not a store of labels, got {kind}; {expected}"
        f"{suggest_path(storage.location, holding=paths.DESCRIPTOR) or hint}"
    )


def find_descriptor(storage: Storage) -> Descriptor | None:
    """Return the descriptor of a store; None if there is no store.

    Raises:
        StoreCorrupt: The descriptor is damaged.
        StoreUnsupported: The store needs a newer softlabels.
    """
    with read_errors(storage.locate(paths.DESCRIPTOR), DESCRIPTOR):
        try:
            data = storage.read(paths.DESCRIPTOR, MAX_DESCRIPTOR_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return parse_descriptor(data)


def open_with_descriptor(location: Location) -> tuple[Storage, Descriptor]:
    """Return the storage and the descriptor of a store.

    Args:
        location: Location of the store.

    Raises:
        StoreNotFound: There is no store.
        StoreCorrupt: The descriptor is damaged.
        StoreUnsupported: The store needs a newer softlabels.
        StorageUnsupported: The location has a scheme that is not supported.
    """
    storage = open_storage(location)
    return storage, read_descriptor(storage)
