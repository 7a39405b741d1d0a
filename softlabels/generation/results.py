"""Results of generating and of its dry run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from softlabels.store import HeadFidelity


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Result of a run of ``generate``, and the state of the store after it.

    Attributes:
        rows: Rows that are committed.
        units: Units of the store when complete.
        new_units: Units that this run committed.
        missing_units: Units that other processes have yet to commit; the store is sealed when there are none.
        seconds: Wall time of this run, after the teacher was loaded.
        bytes: Bytes of the committed shards.
        bytes_per_row: The same per row.
        snapshot: Digest of the sealed snapshot; None while units are missing.
        encoding: Encoding of the labels; of several heads ``HEAD=SPEC`` each, separated by spaces.
        encodings: Encoding by head.
        heads: Kind, classes and encoding of each head.
        reused_rows: Rows that this run copied from other stores.
        fidelity: Fidelity of the first head that is a distribution; None while units are missing.
        fidelities: Fidelity by head; empty while units are missing.
        skipped_rows: Rows of the store without labels, which ``rows`` does not count.
    """

    rows: int
    units: int
    new_units: int
    missing_units: int
    seconds: float
    bytes: int
    bytes_per_row: float
    snapshot: str | None
    encoding: str
    encodings: Mapping[str, str]
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reused_rows: int = 0
    fidelity: HeadFidelity | None = None
    fidelities: Mapping[str, HeadFidelity] = field(default_factory=dict)
    skipped_rows: int = 0

    def to_json(self) -> dict[str, object]:
        """Return the result as ``generate --json`` prints it."""
        fidelities = {name: fidelity.to_json() for name, fidelity in self.fidelities.items()}
        fidelity = None if self.fidelity is None else self.fidelity.to_json()
        return asdict(self) | {"fidelity": fidelity, "fidelities": fidelities}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Cost of generating, from one timed batch.

    Attributes:
        rows: Rows of the store.
        units: Units of the store.
        unit_rows: Rows of a unit.
        encoding: Encoding of the labels, as ``Generated.encoding``.
        encodings: Encoding by head.
        bytes: Bytes of all shards.
        bytes_per_row: The same per row.
        seconds: Time of all forward passes.
        rows_per_second: Rows of a batch per second.
    """

    rows: int
    units: int
    unit_rows: int
    encoding: str
    encodings: Mapping[str, str]
    bytes: int
    bytes_per_row: float
    seconds: float
    rows_per_second: float

    def to_json(self) -> dict[str, object]:
        """Return the estimate as ``generate --dry-run --json`` prints it."""
        return asdict(self)


def encoding_text(encodings: Mapping[str, str]) -> str:
    """Return the encodings of a store as one text.

    Args:
        encodings: Encoding by head.

    Example:
        >>> encoding_text({"logits": "topk:4:f16"}), encoding_text({"a": "dense:f16", "b": "dense:f32"})
        ('topk:4:f16', 'a=dense:f16 b=dense:f32')
    """
    if len(encodings) == 1:
        return next(iter(encodings.values()))
    return " ".join(f"{head}={encoding}" for head, encoding in encodings.items())
