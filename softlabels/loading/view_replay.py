"""Views in the loader: the images that the labels of a store of views were made from, replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.loading.ensemble import Ensemble, stores_of
from softlabels.loading.key_index import as_names
from softlabels.sources import Source
from softlabels.sources.opening import as_source_of_shape
from softlabels.sources.view_inputs import ViewInputs, implied_size
from softlabels.store import Store
from softlabels.store.format.view_record import ViewRecord, same_views
from softlabels.views import parse_policy


def source_of(inputs: Any, labels: Store | Ensemble | None, size: int | None = None) -> Source:
    """Return data as a source, with images at the size of a store's views, or of its images if theirs differ.

    Args:
        inputs: Anything ``softlabels.sources.as_source`` takes.
        labels: The labels, if any.
        size: Height and width of images in pixels; None: as above.

    Raises:
        InvalidArgument: ``inputs`` holds no examples.
        InvalidData: The data cannot be used.
    """
    if size is None and getattr(inputs, "size", None) is None:
        record = next((store.descriptor.views for store in stores_of(labels) if store.descriptor.views), None)
        size = None if record is None else implied_size(record)
    shapes = [store.descriptor.data.shape for store in stores_of(labels)]
    return as_source_of_shape(inputs, shapes[0] if shapes else None, size=size)


def _partners(store: Store, source: Source, record: ViewRecord) -> NDArray[np.int64] | None:
    """Return the row of each example of a store, -1 for one that the data lacks; None if example i is row i.

    Raises:
        InvalidArgument: The store lacks examples that others are mixed with.
    """
    if not parse_policy(record.policy).mixes:
        return None
    if source.fingerprint == store.descriptor.data.fingerprint and len(source) == record.examples:
        return None
    if store.rows != record.examples * record.count:
        raise InvalidArgument(
            f"{store.storage}: holds {store.rows:,} of {record.examples * record.count:,} rows, so the examples that "
            "views are mixed with are not known for other data; expected the data that the labels were made from"
        )
    own = as_names(source.keys())
    order = np.argsort(own, kind="stable")
    names = as_names(store.keys()[:: record.count])
    places = np.minimum(np.searchsorted(own[order], names), len(own) - 1)
    rows = order[places]
    return np.where(own[rows] == names, rows, -1).astype(np.int64)


def has_views(store: Store | None) -> bool:
    """Return True if a store holds labels of several views of an example.

    Args:
        store: The labels, if any.
    """
    return store is not None and store.descriptor.views is not None and store.descriptor.views.count > 1


def replay_of(labels: Store | Ensemble | None, source: Source | None) -> ViewInputs | None:
    """Return the views that the rows of a store are labels of, checked against the data; None if there are none.

    Args:
        labels: The labels, if any.
        source: The data, if any.

    Raises:
        LabelsMisaligned: A view replays to other pixels than its labels were made from.
        InvalidArgument: The policy is of another version, or stores of an ensemble are of different views.
        InvalidData: The data has no images.
    """
    stores = stores_of(labels)
    record = stores[0].descriptor.views if stores else None
    for store in stores[1:]:
        if not same_views(store.descriptor.views, record):
            raise InvalidArgument(
                f"stores: {store.storage} and {stores[0].storage} are labels of different views; expected one policy, "
                "seed, size and number of views. Generate both with the same options"
            )
    if record is None or source is None:
        return None
    replay = ViewInputs(source, record, _partners(stores[0], source, record))
    replay.check()
    return replay
