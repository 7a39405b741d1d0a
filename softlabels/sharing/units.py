"""Copying of units as they are: shard and extras first, then the record that makes them visible."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import StoreConflict, StoreError
from softlabels.sharing.receivers import Receiver, copy_file
from softlabels.store import Store
from softlabels.store.format import paths
from softlabels.store.format.limits import MAX_RECORD_BYTES
from softlabels.store.format.record import Record, parse_record
from softlabels.store.format.snapshot import read_snapshot, read_table
from softlabels.store.storage.read_errors import REPAIR, read_errors
from softlabels.store.storage.storage import Storage

TransferProgress = Callable[[int, int], None]
"""Called with the bytes of shards that are at the target, and the bytes of all shards."""


class UnitCopier:
    """Copies the units that a receiver lacks; may be used by several threads.

    A unit that the target's own snapshot names is not looked at again, so a store that has grown costs requests for its
    new units alone.

    Args:
        source: Store to copy from.
        receiver: Place to copy to.
        progress: Called with bytes done and bytes in all.

    Attributes:
        units: Units copied.
        bytes: Bytes of their shards.
    """

    def __init__(self, source: Store, receiver: Receiver, progress: TransferProgress | None) -> None:
        self.units = 0
        self.bytes = 0
        self._source = source
        self._receiver = receiver
        self._progress = progress
        table = read_table(source.storage, source.snapshot, ["record", "size"])
        self._records, self._sizes = table["record"], table["size"]
        self._sealed = _sealed_records(receiver.storage)
        self._existing = set(paths.committed_units(receiver.storage))
        self._done = 0
        self._lock = Lock()

    def copy_all(self, workers: int) -> None:
        """Copy all units.

        Args:
            workers: Units that are copied at the same time.
        """
        copy_units(self.copy, range(self._source.units), workers)

    def copy(self, unit: int) -> None:
        """Copy a unit unless the target has its record.

        Args:
            unit: Index of the unit.

        Raises:
            StoreConflict: The target has another record of the unit.
            StoreCorrupt: A file of the unit is damaged.
        """
        is_sealed = unit < len(self._sealed) and self._sealed[unit] == self._records[unit]
        is_new = False if is_sealed and unit in self._existing else self._put(unit)
        with self._lock:
            size = int(self._sizes[unit])
            self.units += is_new
            self.bytes += size if is_new else 0
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._source.bytes)

    def _put(self, unit: int) -> bool:
        """Put the files of a unit; returns False if it was there."""
        name = paths.record_path(unit)
        data, record = self._record(unit)
        if unit not in self._existing:
            source = self._source.storage
            shard = paths.shard_path(unit, record.attempt, self._source.descriptor.shard_format)
            copy_file(source, self._receiver, shard, record.blake3, REPAIR, limit=record.size)
            if record.extras is not None:
                extras = paths.extras_path(unit, record.attempt)
                copy_file(source, self._receiver, extras, record.extras[1], REPAIR, limit=record.extras[0])
            if self._receiver.put_if_absent(name, data):
                return True
        target = self._receiver.storage
        if target.read(name, MAX_RECORD_BYTES) != data:
            raise StoreConflict(
                f"{target.locate(name)}: another writer has committed this unit; expected a copy of "
                f"{self._source.storage}. Name another target"
            )
        return False

    def _record(self, unit: int) -> tuple[bytes, Record]:
        """Return a record of the source, which must be the sealed one."""
        storage, name = self._source.storage, paths.record_path(unit)
        with read_errors(storage.locate(name), REPAIR):
            data = storage.read(name, MAX_RECORD_BYTES)
            record = parse_record(data, unit, self._source.descriptor)
            if record.digest != self._records[unit].decode("latin-1"):
                raise ValueError("it is not the record that was sealed")
        return data, record


def copy_units(copy: Callable[[int], None], units: Iterable[int], workers: int) -> None:
    """Copy units, several at the same time; the first error ends the copy.

    Args:
        copy: Copies the unit of an index.
        units: Indices of the units.
        workers: Units that are copied at the same time.

    Raises:
        Exception: Whatever ``copy`` raises.

    Example:
        >>> copied = []
        >>> copy_units(copied.append, range(3), workers=2)
        >>> sorted(copied)
        [0, 1, 2]
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="softlabels-copy") as pool:
        futures = [pool.submit(copy, unit) for unit in units]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _sealed_records(storage: Storage) -> NDArray[np.bytes_]:
    """Return the digests of the records that the last snapshot of a copy names; empty if it has no good one."""
    with suppress(StoreError):
        if numbers := paths.snapshot_numbers(storage):
            return read_table(storage, read_snapshot(storage, numbers[-1]), ["record"])["record"]
    return np.empty(0, "S64")
