"""Making a batch of rows: labels from columns, the inputs they belong to, and the check that they do."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, LabelsMisaligned
from softlabels.labels import SoftLabels
from softlabels.loading.batch import Batch, map_labels
from softlabels.loading.chunks.rows import RowColumns
from softlabels.loading.ensemble import Ensemble, stores_of
from softlabels.loading.order.steps import Span
from softlabels.loading.shared_memory import as_tensor
from softlabels.loading.view_means import ViewMeans
from softlabels.sources import Ragged, Source, input_keys, map_arrays
from softlabels.sources.protocol import LABEL_HEAD
from softlabels.sources.view_inputs import ViewInputs
from softlabels.store import Store

Check = Literal["sample", "all", "off"]


def effective_check(check: Check, store: Store | Ensemble | None, inputs: Source | None) -> Check:
    """Return ``check``, or ``off`` if there is nothing to compare: rows named by an id, no store, or no data.

    Raises:
        InvalidArgument: An unknown value.
    """
    if check not in get_args(Check):
        raise InvalidArgument(f"check: unknown value, got {check!r}; expected {', '.join(get_args(Check))}")
    return check if inputs is not None and inputs.columns.has_input_keys and store is not None else "off"


class Collator:
    """Makes batches of rows.

    Args:
        store: Store, or Ensemble, of the labels. None: batches have no labels.
        inputs: Data. None: batches have labels alone.
        check: Inputs to hash again; see ``effective_check``.
        tensors: Return torch tensors, with ids and values in the dtypes they are stored in. Otherwise return NumPy
            arrays, with int64 ids and float32 values.
        views: Include the view of each row.
        replay: Views of the inputs, which are replayed; None: inputs are read as they are.
        means: Views of every example, whose mean labels are those of its input; None: labels are those of rows.
    """

    def __init__(
        self,
        store: Store | Ensemble | None,
        inputs: Source | None,
        *,
        check: Check,
        tensors: bool,
        views: bool,
        replay: ViewInputs | None = None,
        means: ViewMeans | None = None,
    ) -> None:
        self._store = store
        self._stores = stores_of(store)
        self._heads = [] if store is None else list(store.heads)
        self._inputs = inputs
        self._check = check
        self._tensors = tensors
        self._views = views
        self._replay = replay
        self._means = means

    def collate(self, span: Span, rows: RowColumns) -> Batch:
        """Return the batch of some rows of a step.

        Raises:
            LabelsMisaligned: An input is not the one that its labels were made from.
        """
        inputs: Any = None
        hard: Any = None
        if self._inputs is not None:
            inputs = map_arrays(self._read(rows), _owned)
            hard = self._hard_labels(rows)
            self._check_alignment(inputs, rows)
            if self._tensors:
                inputs, hard = map_arrays(inputs, as_tensor), None if hard is None else as_tensor(hard)
        return Batch(
            epoch=span.epoch,
            step=span.step,
            rows=rows.source_rows,
            inputs=inputs,
            hard=hard,
            targets=self._targets(rows),
            views=rows.columns[0]["view"] if self._views else None,
            global_rows=span.stop - span.start,
        )

    def _read(self, rows: RowColumns) -> Any:
        """Return the inputs of rows, or their views."""
        if self._inputs is None:
            return None
        if self._replay is None:
            return self._inputs.inputs(rows.source_rows)
        return self._replay.inputs(rows.source_rows, rows.columns[0]["view"])

    def _hard_labels(self, rows: RowColumns) -> NDArray[np.int64] | None:
        """Return the hard labels of rows; -1 for a view that shows two examples."""
        hard = None if self._inputs is None else self._inputs.labels(rows.source_rows)
        if hard is None or self._replay is None or LABEL_HEAD not in self._replay.targets:
            return hard
        return np.asarray(self._replay.target(LABEL_HEAD, rows.source_rows, rows.columns[0]["view"]), np.int64)

    def _targets(self, rows: RowColumns) -> dict[str, SoftLabels]:
        """Return the labels of rows by head."""
        if self._means is None:
            return {head: self._labels(head, rows) for head in self._heads}
        by_view = self._means.columns(rows.store_rows)
        means = {head: self._means.mean(head, by_view) for head in self._heads}
        return {
            head: map_labels(labels, as_tensor, with_prior=True) if self._tensors else labels
            for head, labels in means.items()
        }

    def _labels(self, head: str, rows: RowColumns) -> SoftLabels:
        if isinstance(self._store, Ensemble):
            members = zip(self._stores, rows.columns, strict=True)
            labels = self._store.combine([store.decode(columns, head) for store, columns in members])
        else:
            labels = self._stores[0].decode(rows.columns[0], head, widen=not self._tensors)
        return map_labels(labels, as_tensor, with_prior=True) if self._tensors else labels

    def _check_alignment(self, inputs: NDArray[np.generic] | Ragged, rows: RowColumns) -> None:
        if self._check == "off" or len(inputs) == 0:
            return
        count = 1 if self._check == "sample" else len(inputs)
        differs = (input_keys(inputs, count) != rows.columns[0]["key"][:count]).any(axis=1)
        if differs.any():
            row = int(rows.source_rows[int(differs.argmax())])
            raise LabelsMisaligned(
                f"inputs: row {row} of the data is not the input that its labels were made from. If the data changed "
                "since it was opened, open it again, or generate labels for it"
            )


def _owned(array: Any) -> Any:
    """Return an array, or a copy if the data may share its memory: a batch may be changed in place, the data not."""
    if isinstance(array, np.ndarray):
        return array if array.flags.owndata and array.flags.writeable else array.copy()
    return array.clone()
