"""Several teachers of the same rows, as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blake3 import blake3

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, Head, SoftLabels
from softlabels.loading.averaging import mean_labels
from softlabels.store import Store


@dataclass(frozen=True)
class Ensemble:
    """The weighted mean of what several teachers said of the same rows.

    Takes the place of a store in a Loader. Rows come in the order of the first store; the others may hold them in any
    order, and any others beside them. A mean is a distribution of no single temperature family, so it is taken at one.

    Attributes:
        stores: of labels of the same rows, with equal heads but for their encodings.
        weights: of the stores, above 0; None: all the same.
        temperature: at which distributions are averaged, and the only one the batches' labels can be used at.

    Raises:
        InvalidArgument: stores that do not fit together.
        TemperatureNotStored: a store holds no tail mass at this temperature.
    """

    stores: Sequence[Store]
    weights: Sequence[float] | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.stores:
            raise InvalidArgument("an ensemble needs a store")
        weights = self.weights
        if weights is not None and (len(weights) != len(self.stores) or not all(0 < w < math.inf for w in weights)):
            raise InvalidArgument(f"an ensemble needs a weight above 0 for each of its {len(self.stores)} stores")
        for store in self.stores[1:]:
            if _shapes(store) != _shapes(self.stores[0]):
                raise InvalidArgument(
                    f"{store.storage} has heads {_shapes(store)}, where {self.stores[0].storage} has "
                    f"{_shapes(self.stores[0])}; teachers of an ensemble have the same outputs"
                )
        for store in self.stores:
            for name, head in store.heads.items():
                if head.kind in DISTRIBUTIONS and store.encoding(name).has_tail:
                    store.read([0], name).log_probs(self.temperature)

    @property
    def heads(self) -> dict[str, Head]:
        """Outputs, as the batches hold them."""
        return {name: replace(head, temperatures=(self.temperature,)) for name, head in self.stores[0].heads.items()}

    def combine(self, parts: Sequence[SoftLabels]) -> SoftLabels:
        """The mean of the labels of one batch, by store."""
        given = self.weights or [1.0] * len(self.stores)
        return mean_labels(parts, [weight / math.fsum(given) for weight in given], self.temperature)


def stores_of(labels: Store | Ensemble | None) -> tuple[Store, ...]:
    """The stores that are read; rows are counted by the first."""
    if labels is None:
        return ()
    return (labels,) if isinstance(labels, Store) else tuple(labels.stores)


def digest_of(labels: Store | Ensemble) -> str:
    """Names a sealed state: that of a snapshot, or of all of an ensemble's, their weights and the temperature."""
    if isinstance(labels, Store):
        return labels.snapshot.digest
    parts = [store.snapshot.digest for store in labels.stores]
    return str(blake3(repr((parts, labels.weights, labels.temperature)).encode()).hexdigest())


def _shapes(store: Store) -> dict[str, tuple[object, ...]]:
    return {name: (head.kind, head.classes, head.shape) for name, head in store.heads.items()}
