"""Random access to rows: the chunks that were read last stay decoded, as far as the granted memory goes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import rows as ragged
from softlabels.loading.tables import Arrays, empty_rows
from softlabels.store import Store


class Chunks:
    """Takes rows of a store in any order. Not to be shared between threads.

    A row whose chunk is held costs a copy; another one the reading, hashing and decoding of a chunk (about 1 MiB).

    Args:
        store: read from.
        names: of the columns.
        memory: bytes of decoded chunks to hold; the last chunk read is held in any case.
    """

    def __init__(self, store: Store, names: list[str], memory: int) -> None:
        self._store = store
        self._schema = store.descriptor.columns()
        self._names = ragged.with_counts(names, self._schema)
        self._memory = memory
        self._starts = np.concatenate([[0], np.cumsum(store.chunk_rows())])
        self._held: OrderedDict[int, Arrays] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Without what is held: another process reads what it needs itself."""
        return self.__dict__ | {"_held": OrderedDict(), "_bytes": 0}

    def take(self, rows: NDArray[np.int64]) -> Arrays:
        """Columns of rows, in their order.

        Raises:
            StoreCorrupt: bytes in the store are not what was committed.
        """
        chunk_of = np.searchsorted(self._starts, rows, side="right") - 1
        parts = []
        for chunk in np.unique(chunk_of):
            inside = rows[chunk_of == chunk] - self._starts[chunk]
            parts.append(ragged.take(self._chunk(int(chunk)), self._schema, inside))
        if not parts:
            return empty_rows({name: self._schema[name] for name in self._names})
        back = np.argsort(np.argsort(chunk_of, kind="stable"), kind="stable")
        return ragged.take(ragged.join(parts), self._schema, back)

    def _chunk(self, number: int) -> Arrays:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        found = self._store.read_chunk(number, self._names)
        self._held[number] = found
        self._bytes += _bytes(found)
        while self._bytes > self._memory and len(self._held) > 1:
            self._bytes -= _bytes(self._held.popitem(last=False)[1])
        return found


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
