"""Labels with fewer classes per row: the likeliest ones stay listed, and the rest joins the tail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from softlabels.encodings import Dense, TopK
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
    """

    store: Store
    name: str
    head: Head

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
        if isinstance(encoding, TopK):
            narrow = encoding if top >= encoding.k else replace(encoding, k=top)
        elif isinstance(encoding, Dense) and not head.position_shape:
            narrow = TopK(top)
        else:
            raise InvalidArgument(
                f"top: head {name!r} is stored as {head.encoding}, which cannot be narrowed; expected topk, or dense "
                "with one distribution per row or token. Copy it as it is, or leave the head out"
            )
        return cls(store, name, replace(head, encoding=narrow.spec))

    @property
    def is_changed(self) -> bool:
        """True if the copy lists fewer classes."""
        return self.head != self.store.heads[self.name]

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
        if not self.is_changed:
            prior = self.store.prior(self.name) if sums else None
            return own, None if prior is None else spread_tail(cast("SparseLabels", labels), prior)
        if isinstance(labels, DenseLabels):
            return self._encode(labels, own, rows, sums=sums)
        return self._cut(labels, own, sums=sums)

    def _encode(
        self, labels: DenseLabels, own: Columns, rows: NDArray[np.int64], *, sums: bool
    ) -> tuple[Columns, NDArray[np.float64] | None]:
        import torch

        encoding = cast("TopK", self._encoding())
        items = rows if labels.lengths is None else np.repeat(rows, labels.lengths)
        values = torch.from_numpy(np.ascontiguousarray(labels.values, np.float32))
        encoded = encoding.encode(values, self.head, items, residual=sums)
        arrays = {f"{self.name}/{name}": array for name, array in encoded.arrays.items()}
        if (length := f"{self.name}/{LENGTH}") in own:
            arrays[length] = own[length]
        return arrays, encoded.residual

    def _cut(self, labels: SparseLabels, own: Columns, *, sums: bool) -> tuple[Columns, NDArray[np.float64] | None]:
        k, classes = cast("TopK", self._encoding()).k, labels.classes
        schema = self.store.descriptor.columns()
        arrays = {
            # Entries are descending, and steps are differences, so the first ones stand by themselves.
            name: array[:, :k] if schema[name].shape == labels.ids.shape[1:] and not name.endswith("/tail") else array
            for name, array in own.items()
        }
        listed = [labels.listed_log_probs(temperature).astype(np.float64) for temperature in labels.temperatures]
        dropped = np.stack([log_probs[:, k:] for log_probs in listed])
        with np.errstate(divide="ignore"):
            mass = np.exp(labels.log_tail.astype(np.float64)) + np.exp(dropped).sum(axis=2).T
            log_tail = np.minimum(np.log(mass), 0.0)
        tail = f"{self.name}/tail"
        arrays[tail] = log_tail.astype(own[tail].dtype)
        if not sums:
            return arrays, None
        prior = self.store.prior(self.name)
        row, place = np.nonzero(np.isfinite(labels.values[:, :k]))
        even = exposure(log_tail, row, labels.ids[row, place], classes)
        of_rest = np.zeros_like(even) if prior is None else spread_tail(labels, prior)[0]
        ids = labels.ids[:, k:].ravel()
        of_dropped = np.stack([np.bincount(ids, np.exp(one).ravel(), minlength=classes) for one in dropped])
        return arrays, np.stack([of_rest + of_dropped, even])

    def _encoding(self) -> object:
        from softlabels import encodings

        return encodings.parse(self.head.encoding, classes=self.head.classes)
