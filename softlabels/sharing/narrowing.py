"""Labels with fewer classes per row: the likeliest ones stay listed, and the rest joins the tail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from softlabels import encodings
from softlabels.columns import COUNT, Arrays, Column
from softlabels.encodings import Adaptive, Dense, TopK
from softlabels.encodings.items import as_items, as_planes
from softlabels.encodings.listed import Listed
from softlabels.encodings.log_probs import LogProbs
from softlabels.encodings.tail import exposure
from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels, Head, SparseLabels
from softlabels.store import Store
from softlabels.store.format.descriptor import LENGTH
from softlabels.store.maintenance.row_copier import spread_tail

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class NarrowHead:
    """A head whose rows are copied with fewer classes, or as they are.

    Attributes:
        store: Store that is copied from.
        name: Name of the head.
        head: The head of the copy.
        k: Largest number of classes of a row of the copy; None to copy rows as they are.
    """

    store: Store
    name: str
    head: Head
    k: int | None = None

    @classmethod
    def of(cls, store: Store, name: str, top: int | None) -> NarrowHead:
        """Return the head of a copy.

        Args:
            store: Store that is copied from.
            name: Name of the head.
            top: Number of likeliest classes of each row; None for those of the store.

        Raises:
            InvalidArgument: The encoding of the head cannot be narrowed.
        """
        head, encoding = store.heads[name], store.encoding(name)
        if top is None or head.kind not in DISTRIBUTIONS or top >= head.classes:
            return cls(store, name, head)
        if isinstance(encoding, TopK) and top >= encoding.k:
            return cls(store, name, head)
        if isinstance(encoding, TopK):
            return cls(store, name, replace(head, encoding=replace(encoding, k=top).spec), top)
        if isinstance(encoding, Adaptive):
            return cls(store, name, head, top)
        if isinstance(encoding, Dense):
            return cls(store, name, replace(head, encoding=TopK(top).spec), top)
        raise InvalidArgument(
            f"top: head {name!r} is stored as {head.encoding}, which cannot be narrowed: its classes are draws, and "
            "the likeliest of them alone are no longer right on average; expected topk, adaptive or dense. Copy it "
            "as it is, or leave the head out"
        )

    def columns(
        self, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], *, sums: bool
    ) -> tuple[Columns, NDArray[np.float64] | None]:
        """Return the columns of the head for the copy, and the sums for its tail prior.

        Args:
            columns: Columns of the store, by full name.
            rows: Number of each row in the store, for messages.
            sums: If True, return the sums.
        """
        own = {name: array for name, array in columns.items() if name.startswith(f"{self.name}/")}
        labels = self.store.decode(own, self.name)
        if self.k is None:
            prior = self.store.prior(self.name) if sums else None
            return own, None if prior is None else spread_tail(cast("SparseLabels", labels), prior)
        if isinstance(labels, DenseLabels):
            return self._encode(labels, own, rows, TopK(self.k), sums=sums)
        return self._cut(labels, own, self.k, sums=sums)

    def _encode(
        self, labels: DenseLabels, own: Columns, rows: NDArray[np.int64], encoding: TopK, *, sums: bool
    ) -> tuple[Columns, NDArray[np.float64] | None]:
        import torch

        items = rows if labels.lengths is None else np.repeat(rows, labels.lengths)
        values = torch.from_numpy(np.ascontiguousarray(labels.values, np.float32))
        encoded = encoding.encode(values, self.head, items, residual=sums)
        arrays = {f"{self.name}/{name}": array for name, array in encoded.arrays.items()}
        if (length := f"{self.name}/{LENGTH}") in own:
            arrays[length] = own[length]
        return arrays, encoded.residual

    def _cut(
        self, labels: SparseLabels, own: Columns, k: int, *, sums: bool
    ) -> tuple[Columns, NDArray[np.float64] | None]:
        import torch

        classes, shape = labels.classes, self.head.position_shape
        columns = cast("Listed", self.store.encoding(self.name)).item_columns(self.head)
        items = as_items({name.removeprefix(f"{self.name}/"): array for name, array in own.items()}, columns, shape)
        arrays = _first_entries(items, columns, k)
        listed = [labels.listed_log_probs(temperature).astype(np.float64) for temperature in labels.temperatures]
        dropped = np.stack([log_probs[:, k:] for log_probs in listed])
        with np.errstate(divide="ignore"):
            mass = np.exp(labels.log_tail.astype(np.float64)) + np.exp(dropped).sum(axis=2).T
            log_tail = np.minimum(np.log(mass), 0.0)
        is_cut = np.isfinite(labels.values[:, k:]).any(axis=1, keepdims=True)
        narrow = cast("Listed", encodings.parse(self.head.encoding, classes=classes))
        rounded = LogProbs(narrow.dtype).rounded_tail(torch.from_numpy(log_tail.astype(np.float32))).numpy()
        arrays["tail"] = np.where(is_cut, rounded, items["tail"])
        planes = as_planes(arrays, narrow.item_columns(self.head), shape)
        result = {f"{self.name}/{name}": array for name, array in planes.items()}
        if not sums:
            return result, None
        prior = self.store.prior(self.name)
        row, place = np.nonzero(np.isfinite(labels.values[:, :k]))
        even = exposure(log_tail, row, labels.ids[row, place], classes)
        of_rest = np.zeros_like(even) if prior is None else spread_tail(labels, prior)[0]
        ids = labels.ids[:, k:].ravel()
        of_dropped = np.stack([np.bincount(ids, np.exp(log_probs).ravel(), minlength=classes) for log_probs in dropped])
        return result, np.stack([of_rest + of_dropped, even])


def _first_entries(items: Arrays, columns: Mapping[str, Column], k: int) -> dict[str, NDArray[Any]]:
    """Return columns with the first ``k`` entries of each item. They are descending, and steps are differences."""
    if COUNT not in columns:
        is_cut = {name for name, column in columns.items() if column.shape and name != "tail"}
        return {name: array[:, :k] if name in is_cut else array for name, array in items.items()}
    counts = items[COUNT]
    place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    is_cut = {name for name, column in columns.items() if column.per == COUNT}
    cut = {name: array[place < k] if name in is_cut else array for name, array in items.items()}
    return cut | {COUNT: np.minimum(counts, k).astype(counts.dtype)}
