"""The state of a loader: its position as a few integers, and the order that the position belongs to."""

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
    """Everything that decides the order of rows. A position is valid only in an order with an equal identity.

    Attributes:
        snapshot: Digest of the store's snapshot, or of all snapshots of an ensemble. Empty without a store.
        rows: Number of rows in an epoch.
        selection: Digest of the selected rows of the data. Empty for all rows of the store.
        seed: Seed of the order.
        shuffle: 1 or 0.
        window: Number of chunks shuffled together; 0 if nothing is shuffled.
        by_length: Rows of a batch if batches are made by length, else 0.
    """

    snapshot: str
    rows: int
    selection: str
    seed: int
    shuffle: int
    window: int
    by_length: int

    @classmethod
    def of(cls, store: Store | Ensemble | None, inputs: Source | None, plan: EpochPlan) -> Identity:
        """Return the identity of the order of a plan."""
        hasher = blake3()
        joined = plan.joined
        parts = (
            (plan.subset,)
            if joined is None
            else (joined.examples, joined.rows, joined.views, int(joined.draw) + int(joined.first))
        )
        for value in (*parts, *([] if plan.data_chunks is None else [plan.data_chunks])):
            hasher.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        hasher.update((inputs.fingerprint if inputs is not None else "").encode())
        plain = inputs is None and joined is None and plan.subset is None
        return cls(
            snapshot="" if store is None else digest_of(store),
            rows=plan.length,
            selection="" if plain else hasher.hexdigest()[:32],
            seed=int(plan.seed),
            shuffle=int(plan.shuffle),
            window=int(plan.window) if plan.shuffle else 0,
            by_length=int(plan.batch_size) if plan.lengths is not None else 0,
        )

    def state(self, epoch: int, position: int) -> dict[str, Any]:
        """Return the state at a position, as ``Loader.state_dict`` does."""
        return {"version": VERSION, "epoch": epoch, "position": position, **asdict(self)}

    def position(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """Return the epoch and the position of a state.

        Raises:
            InvalidArgument: Not a state of this version, or a state of another store, selection or order; names the
                difference.
        """
        if not isinstance(state, Mapping):
            raise InvalidArgument(f"loader state: not a mapping, got {type(state).__name__}; expected state_dict()")
        if type(state.get("version")) is not int or state["version"] != VERSION:
            raise InvalidArgument(
                f"loader state: unsupported loader state version, got {state.get('version')!r}; expected {VERSION}. "
                "Start without the state, or use the version of softlabels that saved it"
            )
        expected = self.state(0, 0)
        missing = [name for name in expected if name not in state]
        if missing:
            raise InvalidArgument(
                f"loader state: entries are missing, got none for {', '.join(missing)}; expected all of "
                f"{', '.join(expected)}. Pass what state_dict() returned"
            )
        for name, own_value in asdict(self).items():
            value = state[name]
            if type(value) is not type(own_value) or value != own_value:
                raise InvalidArgument(
                    f"loader state: the state is of another {_NAMES.get(name, name)}, got {name} {value!r}; expected "
                    f"{own_value!r}. Make the loader as it was when the state was saved, or start without the state"
                )
        epoch, position = state["epoch"], state["position"]
        if type(epoch) is not int or type(position) is not int or epoch < 0 or not 0 <= position < self.rows:
            raise InvalidArgument(
                f"loader state: invalid position, got epoch {epoch!r}, position {position!r}; expected an epoch from 0 "
                f"and a position from 0 to {self.rows - 1:,}"
            )
        return epoch, position


_NAMES = {"snapshot": "store", "rows": "number of rows", "selection": "selection of rows, or other data"}
