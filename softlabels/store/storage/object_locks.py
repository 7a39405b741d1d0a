"""Locks in an object store: small objects that their holders renew, and that others take over when they are old.

A lease is advice: two writers that hold one because a renewal was late still commit each unit once, since records are
put by conditional requests. Ages are differences of times of the service, so clocks of the clients do not matter.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Self

from softlabels.errors import StorageFailed, StorageUnknown, StoreBusy
from softlabels.store.storage.storage import TEMPORARY

if TYPE_CHECKING:
    from softlabels.store.storage.object_storage import ObjectStorage

LEASE_SECONDS = 60.0
"""Age at which a lease may be taken over."""
RENEWAL_SECONDS = 15.0


class Lease:
    """A lock that a thread renews until it is closed; see `Lock`. Make one with `Lease.take`."""

    def __init__(self, storage: ObjectStorage, name: str, version: str) -> None:
        self._storage = storage
        self._name = name
        self._version: str | None = version
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="softlabels-lease", daemon=True)
        self._renewing.start()

    @classmethod
    def take(cls, storage: ObjectStorage, name: str) -> Lease:
        """Return the lease of a name.

        Args:
            storage: Storage of the lease.
            name: Name of its object.

        Raises:
            StoreBusy: Another process holds it.
        """
        owner = uuid.uuid4().bytes
        if storage.put_if_absent(name, owner):
            version = storage.version(name)
        else:
            info, old = storage.info(name), storage.version(name)
            is_old = info is not None and storage.clock() - info.modified > LEASE_SECONDS
            version = storage.put(name, owner, replace=old) if is_old and old is not None else None
        if version is None:
            raise StoreBusy(
                f"{storage}: is being written by another process; wait for it, or use another location. The lock of a "
                f"process that died ends after {LEASE_SECONDS:g} s"
            )
        return cls(storage, name, version)

    @property
    def closed(self) -> bool:
        """True once the lock was released or lost."""
        return self._ended.is_set()

    def close(self) -> None:
        """Release the lock."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._renewing.join()
        if self._version is not None and self._storage.version(self._name) == self._version:
            self._storage.delete(self._name)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL_SECONDS):
            try:
                self._version = self._storage.put(self._name, uuid.uuid4().bytes, replace=self._version)
            except (StorageFailed, StorageUnknown):
                continue  # the next renewal may succeed, and a lease that ends is no loss
            if self._version is None:
                self._ended.set()


class ObjectUnitLocks:
    """Claims of this process on units; see `UnitLocks`.

    Args:
        storage: Storage of the store.

    Attributes:
        lapse_seconds: Age at which a lease may be taken over.
    """

    lapse_seconds = LEASE_SECONDS

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage
        self._leases: dict[int, Lease] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, unit: int) -> bool:
        """See `UnitLocks.take`."""
        if unit in self._leases and not self._leases[unit].closed:
            return True
        # A unit that is committed needs no claim, and units are worked on one by one.
        for lease in self._leases.values():
            lease.close()
        self._leases.clear()
        try:
            self._leases[unit] = Lease.take(self._storage, f"{TEMPORARY}/claims/{unit:08d}.lock")
        except StoreBusy:
            return False
        return True

    def close(self) -> None:
        """Release all claims."""
        for lease in self._leases.values():
            lease.close()
        self._leases.clear()
