"""Several teachers of the same rows, as one."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

from blake3 import blake3

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, Head, SoftLabels
from softlabels.loading.averaging import mean_labels
from softlabels.store import Store, open_store
from softlabels.store.storage.storage import Location, Storage

Labels = TypeVar("Labels")


@dataclass(frozen=True, init=False)
class Ensemble:
    """The weighted mean of the outputs of several teachers for the same rows.

    An Ensemble takes the place of a store in a Loader. Rows come in the order of the first store. The other stores may
    hold them in any order, and other rows too. A mean of distributions belongs to one temperature only, so it is taken
    at one.

    Attributes:
        stores: Stores with labels of the same rows, or their locations. Their heads may differ in encoding alone.
        weights: Weight of each store, above 0. None: equal weights.
        temperature: Temperature at which distributions are averaged, and the only one that the labels of the batches
            can be used at.

    Raises:
        InvalidArgument: No stores, weights that are not above 0, or stores with different heads.
        StoreNotFound: There is no sealed store at a location.
        TemperatureNotStored: A store holds no tail mass at this temperature.

    Example:
        >>> import softlabels as sl
        >>> ensemble = sl.Ensemble(["labels-a", "labels-b"], weights=[3, 1], temperature=2.0)  # doctest: +SKIP
        >>> loader = sl.loader(ensemble, batch_size=256)  # doctest: +SKIP
    """

    stores: tuple[Store, ...]
    weights: Sequence[float] | None
    temperature: float

    def __init__(
        self, stores: Sequence[Store | Location], weights: Sequence[float] | None = None, temperature: float = 1.0
    ) -> None:
        if not stores:
            raise InvalidArgument("stores: got none; expected at least one store")
        object.__setattr__(self, "stores", tuple(map(opened, stores)))
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "temperature", temperature)
        if weights is not None and (len(weights) != len(self.stores) or not all(0 < w < math.inf for w in weights)):
            raise InvalidArgument(f"weights: got {list(weights)}; expected {len(self.stores)} finite numbers above 0")
        first = self.stores[0]
        for store in self.stores[1:]:
            if _shapes(store) != _shapes(first):
                raise InvalidArgument(
                    f"stores: the teachers of an ensemble have equal heads, got {_shapes(store)} in {store.storage} "
                    f"and {_shapes(first)} in {first.storage}"
                )
        for store in self.stores:
            for name, head in store.heads.items():
                if head.kind in DISTRIBUTIONS and store.encoding(name).has_tail:
                    store.read([0], name).log_probs(self.temperature)

    @property
    def heads(self) -> dict[str, Head]:
        """Heads by name, with the temperature of the batches' labels."""
        return {name: replace(head, temperatures=(self.temperature,)) for name, head in self.stores[0].heads.items()}

    def combine(self, labels: Sequence[SoftLabels]) -> SoftLabels:
        """Return the mean of the labels of one batch, given by store.

        Raises:
            InvalidArgument: Labels that have no mean.
        """
        weights = self.weights or [1.0] * len(self.stores)
        return mean_labels(labels, [weight / math.fsum(weights) for weight in weights], self.temperature)


@overload
def opened(labels: Location) -> Store: ...
@overload
def opened(labels: Labels) -> Labels: ...
def opened(labels: Any) -> Any:
    """Return labels as they are, or the store at a location."""
    return open_store(labels) if isinstance(labels, str | os.PathLike | Storage) else labels


def stores_of(labels: Store | Ensemble | None) -> tuple[Store, ...]:
    """Return the stores to read. Rows are counted by the first."""
    if labels is None:
        return ()
    return (labels,) if isinstance(labels, Store) else labels.stores


def digest_of(labels: Store | Ensemble) -> str:
    """Return the digest of a store's snapshot, or of all snapshots of an ensemble, their weights and temperature."""
    if isinstance(labels, Store):
        return labels.snapshot.digest
    digests = [store.snapshot.digest for store in labels.stores]
    return str(blake3(repr((digests, labels.weights, labels.temperature)).encode()).hexdigest())


def _shapes(store: Store) -> dict[str, tuple[object, ...]]:
    return {name: (head.kind, head.classes, head.shape) for name, head in store.heads.items()}
