"""The state of a loader: where it is, as a few integers, and what it is a position in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from softlabels.errors import InvalidArgument
from softlabels.loading.ensemble import Ensemble, digest_of
from softlabels.loading.order.epoch import EpochPlan
from softlabels.sources import Source
from softlabels.store import Store

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides the order of rows; a position means something only where all of it is equal.

    Attributes:
        snapshot: digest of the store's snapshot; of all of an ensemble's; empty without a store.
        rows: rows of an epoch.
        selection: names which rows of which data; empty: all rows of the store.
        seed: of the order.
        shuffle: 1 or 0.
        window: chunks shuffled together; 0 where nothing is shuffled.
        by_length: rows of a batch where they are batched by length, else 0.
    """

    snapshot: str
    rows: int
    selection: str
    seed: int
    shuffle: int
    window: int
    by_length: int

    @classmethod
    def of(cls, store: Store | Ensemble | None, inputs: Source | None, feed: EpochPlan) -> Identity:
        """The identity of a loader's order."""
        hasher = blake3()
        joined = feed.joined
        parts = (feed.subset,) if joined is None else (joined.examples, joined.rows, joined.views, int(joined.draw))
        for part in parts:
            hasher.update(repr(part).encode() if not isinstance(part, np.ndarray) else part.tobytes())
        hasher.update((inputs.fingerprint if inputs is not None else "").encode())
        plain = inputs is None and joined is None and feed.subset is None
        return cls(
            snapshot="" if store is None else digest_of(store),
            rows=feed.length,
            selection="" if plain else hasher.hexdigest()[:32],
            seed=feed.seed,
            shuffle=int(feed.shuffle),
            window=feed.window if feed.shuffle else 0,
            by_length=feed.batch if feed.lengths is not None else 0,
        )

    def state(self, epoch: int, position: int) -> dict[str, Any]:
        """As state_dict gives it."""
        return {"version": VERSION, "epoch": epoch, "position": position, **asdict(self)}

    def position(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """Epoch and position in a state.

        Raises:
            InvalidArgument: it is of another store, selection or order, or no state; says what differs.
        """
        if state.get("version") != VERSION:
            raise InvalidArgument(f"this is no state of a loader that is known here (version {state.get('version')!r})")
        for name, mine in asdict(self).items():
            if state.get(name) != mine:
                raise InvalidArgument(
                    f"the state is of another {_NAMES.get(name, name)}: {name} is {state.get(name)!r} there and "
                    f"{mine!r} here. Make the loader as it was when the state was taken, or start without the state"
                )
        epoch, position = state["epoch"], state["position"]
        if type(epoch) is not int or type(position) is not int or epoch < 0 or not 0 <= position < self.rows:
            raise InvalidArgument(f"epoch {epoch!r}, position {position!r} is no place among {self.rows:,} rows")
        return epoch, position


_NAMES = {"snapshot": "store", "rows": "number of rows", "selection": "selection of rows, or other data"}
