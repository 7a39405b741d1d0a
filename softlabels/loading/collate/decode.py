"""Decoding the labels of a batch: widened for NumPy, or as tensors of what is stored for a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from softlabels.labels import SoftLabels
from softlabels.loading.batch import map_labels
from softlabels.loading.shared_memory import as_tensor
from softlabels.store import Store


class Decoder:
    """Decoder of one head's labels from the columns of a batch.

    Args:
        store: Store that the columns are from.
        head: Name of the output.
        widen: Return int64 ids and float32 values; see Encoding.decode.
        tensors: Return torch tensors over the same memory, where nothing is widened.
    """

    def __init__(self, store: Store, head: str, *, widen: bool, tensors: bool) -> None:
        self._store = store
        self._head = head
        self._widen = widen
        self._tensors = tensors

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> SoftLabels:
        """Decode columns by full name.

        Raises:
            InvalidArgument: Rows too many and too uneven to be padded to the longest in memory.
        """
        labels = self._store.decode(columns, self._head, widen=self._widen)
        return map_labels(labels, as_tensor, with_prior=True) if self._tensors and not self._widen else labels
