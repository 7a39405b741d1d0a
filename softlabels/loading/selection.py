"""What the items of a loader are: rows of a store, of data, or of both joined by key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softlabels.errors import InvalidArgument
from softlabels.loading.join import Join, Rows, by_view, join, positional
from softlabels.sources import Source
from softlabels.store import Store


@dataclass(frozen=True)
class Selection:
    """The items of a loader.

    Attributes:
        length: items in an epoch.
        joined: how store and data go together; None where item i is row i of both.
        subset: the rows that are items where nothing is joined, ascending; None: all.
        has_views: whether examples have several augmented versions.
    """

    length: int
    joined: Join | None = None
    subset: Rows | None = None
    has_views: bool = False


def select(store: Store | None, inputs: Source | None, rows: Rows | None, *, missing: str, views: str) -> Selection:
    """The items there are.

    Raises:
        InvalidArgument: neither store nor data, no rows, or an option that does not exist.
        KeyMissing: data without labels.
    """
    if missing not in {"error", "drop"} or views not in {"all", "draw"}:
        raise InvalidArgument(f"missing is error or drop, views is all or draw, not {missing!r} and {views!r}")
    if store is None and inputs is None:
        raise InvalidArgument("a loader needs a store, data, or both")
    total = len(inputs) if inputs is not None else store.rows if store is not None else 0
    if rows is not None and len(rows) and not 0 <= rows.min() <= rows.max() < total:
        raise InvalidArgument(f"rows are 0 to {total - 1}; {rows.min()} to {rows.max()} were asked for")
    if store is not None and inputs is not None and not positional(store, inputs):
        asked = np.arange(total) if rows is None else np.sort(rows)
        found = join(store, inputs, asked, missing=missing, views=views)
        selection = Selection(len(found), found, has_views=bool((found.views > 1).any()))
    elif store is not None and views == "draw" and rows is None:
        found = by_view(store)
        selection = Selection(len(found), found, has_views=True)
    elif views == "draw" and rows is not None:
        raise InvalidArgument("views are drawn from all rows of a store, or from those joined to data; leave out rows")
    else:
        subset = None if rows is None else np.sort(rows)
        selection = Selection(total if subset is None else len(subset), subset=subset)
    if selection.length == 0:
        raise InvalidArgument("there are no rows to load")
    return selection
