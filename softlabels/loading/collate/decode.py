"""From columns to labels: widened for NumPy as every reader does it, or as tensors of what is stored for a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from softlabels.encodings import Dense, TopK
from softlabels.labels import DenseLabels, SoftLabels, SparseLabels
from softlabels.loading.batch import map_labels
from softlabels.loading.shared_memory import as_tensor
from softlabels.store import Store


class Decoder:
    """Makes the labels of one head from a batch's columns.

    Args:
        store: they are from.
        head: name of the output.
        widen: to int64 and float32. Otherwise plain arrays of ids and log-probabilities keep their dtypes, and nothing
            is computed; an encoding whose values have to be computed gives the same in both cases.
        tensors: of torch over the same memory, where nothing is widened.
    """

    def __init__(self, store: Store, head: str, *, widen: bool, tensors: bool) -> None:
        self._store = store
        self._head = head
        self._widen = widen
        self._change: Callable[[Any], Any] = as_tensor if tensors else _unchanged
        self._kind = store.descriptor.heads[head]
        encoding = store.encoding(head)
        self._sparse = isinstance(encoding, TopK) and encoding.dtype == "f16"
        self._dense = isinstance(encoding, Dense) and encoding.dtype in {"f16", "f32"}
        self._names = [f"{head}/{name}" for name in ("ids", "values", "tail", "which", "length")]

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> SoftLabels:
        """The labels in columns by name, as the store gives them.

        Raises:
            InvalidArgument: rows too many and too uneven to be padded to the longest in memory.
        """
        if self._widen:
            return self._store.decode(columns, self._head)
        change, kind, (ids, values, tail, which, length) = self._change, self._kind, self._names
        if self._sparse:
            return SparseLabels(
                classes=kind.classes,
                ids=change(columns[ids]),
                values=change(columns[values]),
                temperatures=kind.temperatures,
                log_tail=change(columns[tail]),
                tail=kind.tail,
                prior=self._maybe(self._store.prior(self._head)),
                lengths=self._maybe(columns.get(length)),
                which=self._maybe(columns.get(which)),
            )
        if self._dense:
            return DenseLabels(change(columns[values]), kind.kind, self._maybe(columns.get(length)))
        return map_labels(self._store.decode(columns, self._head), change, with_prior=True)

    def _maybe(self, value: Any) -> Any:
        return None if value is None else self._change(value)


def _unchanged(value: Any) -> Any:
    return value
