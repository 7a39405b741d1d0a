"""Making a batch of rows: labels from columns, the inputs they belong to, and the check that they do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, LabelsMisaligned
from softlabels.labels import SoftLabels
from softlabels.loading.batch import Batch, map_labels
from softlabels.loading.chunks.windows import RowColumns
from softlabels.loading.collate.decode import Decoder
from softlabels.loading.ensemble import Ensemble, stores_of
from softlabels.loading.join import aligned_rows
from softlabels.loading.order.epoch import StoreColumns
from softlabels.loading.order.steps import Span
from softlabels.loading.shared_memory import as_tensor
from softlabels.sources import Ragged, Source, input_keys, map_arrays
from softlabels.store import Store

CHECKS = ("sample", "all", "off")


class Collator:
    """Makes batches.

    Args:
        store: where the labels are from; None: no labels.
        inputs: the data; None: labels alone.
        check: how many inputs are hashed again.
        widen: labels to int64 and float32.
        tensors: make batches of tensors, where nothing is widened.
        views: hand out which view each row is.

    Raises:
        InvalidArgument: an unknown ``check``.
    """

    def __init__(
        self,
        store: Store | Ensemble | None,
        inputs: Source | None,
        *,
        check: str,
        widen: bool,
        tensors: bool,
        views: bool,
    ) -> None:
        if check not in CHECKS:
            raise InvalidArgument(f"check is {', '.join(CHECKS)}, not {check!r}")
        self._store = store
        self._stores = stores_of(store)
        self._heads = [] if store is None else list(store.heads)
        self._inputs = inputs
        by_content = inputs is not None and inputs.columns.id is None and store is not None
        self._check = check if by_content else "off"
        self._tensors = tensors
        self._decoders = (
            {head: Decoder(store, head, widen=widen, tensors=tensors) for head in self._heads}
            if isinstance(store, Store)
            else {}
        )
        self._views = views

    def members(self) -> tuple[StoreColumns, ...]:
        """What is read of each store."""
        found = []
        for number, store in enumerate(self._stores):
            names = [column for head in self._heads for column in store.head_columns(head)]
            if number == 0:
                names += ["key"] * (self._check != "off") + ["view"] * self._views
            found.append(StoreColumns(store, names, aligned_rows(self._stores[0], store) if number else None))
        return tuple(found)

    def length_column(self) -> str:
        """The column that counts the positions of ragged rows.

        Raises:
            InvalidArgument: no head is ragged.
        """
        for name, head in self._stores[0].heads.items() if self._stores else ():
            if head.ragged:
                return f"{name}/length"
        raise InvalidArgument("by_length needs a store with ragged rows (a head of shape (None,))")

    def row_bytes(self) -> int:
        """About the bytes of a row in a batch; ragged columns are taken to have as many as they take on disk."""
        inputs = 0
        if self._inputs is not None:
            inputs = self._inputs.input_dtype.itemsize * math.prod(self._inputs.input_shape)
        for store in self._stores:
            entry = sum(column.entry_bytes for column in store.descriptor.columns().values())
            inputs += max(entry, int(store.bytes_per_row))
        return inputs

    def batch(self, span: Span, taken: RowColumns) -> Batch:
        """The batch of some rows of a step.

        Raises:
            LabelsMisaligned: an input is not the one its labels were made from.
        """
        inputs: Any = None
        hard: Any = None
        if self._inputs is not None:
            inputs = self._inputs.inputs(taken.source_rows)
            hard = self._inputs.labels(taken.source_rows)
            self._check_alignment(inputs, taken)
            if self._tensors:
                inputs, hard = map_arrays(inputs, as_tensor), None if hard is None else as_tensor(hard)
        return Batch(
            epoch=span.epoch,
            step=span.step,
            rows=taken.source_rows,
            inputs=inputs,
            hard=hard,
            targets=self._labels(taken),
            views=taken.columns[0]["view"] if self._views else None,
            global_rows=span.stop - span.start,
        )

    def _labels(self, taken: RowColumns) -> dict[str, SoftLabels]:
        if not isinstance(self._store, Ensemble):
            return {head: decode(taken.columns[0]) for head, decode in self._decoders.items()}
        labels: dict[str, SoftLabels] = {}
        for head in self._heads:
            parts = [store.decode(columns, head) for store, columns in zip(self._stores, taken.columns, strict=True)]
            combined = self._store.combine(parts)
            labels[head] = map_labels(combined, as_tensor, with_prior=True) if self._tensors else combined
        return labels

    def _check_alignment(self, inputs: NDArray[np.generic] | Ragged, taken: RowColumns) -> None:
        count = 1 if self._check == "sample" else len(inputs)
        if self._check == "off" or len(inputs) == 0:
            return
        wrong = (input_keys(inputs, count) != taken.columns[0]["key"][:count]).any(axis=1)
        if wrong.any():
            row = int(taken.source_rows[int(wrong.argmax())])
            raise LabelsMisaligned(
                f"row {row} of the data is not the input its labels were made from; has the data changed since it was "
                "opened? Open it again, or generate labels for it"
            )
