"""From columns to labels: widened for NumPy as every reader does it, or left as stored for a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from softlabels.encodings import Dense, TopK
from softlabels.labels import DenseLabels, SoftLabels, SparseLabels
from softlabels.store import Store


def decode(store: Store, head: str, columns: Mapping[str, NDArray[Any]], *, widen: bool) -> SoftLabels:
    """Labels of a head from a batch's columns.

    Args:
        store: they are from.
        head: name of the output.
        columns: by name, as the store gives them.
        widen: to int64 and float32. Otherwise plain arrays of ids and log-probabilities keep their dtypes, and nothing
            is computed; an encoding whose values have to be computed gives the same in both cases.
    """
    if widen:
        return store.decode(columns, head)
    kind, encoding, prefix = store.descriptor.heads[head], store.encoding(head), f"{head}/"
    lengths = columns.get(f"{prefix}length")
    if isinstance(encoding, TopK) and encoding.dtype == "f16":
        return SparseLabels(
            classes=kind.classes,
            ids=columns[f"{prefix}ids"],
            values=columns[f"{prefix}values"],
            temperatures=kind.temperatures,
            log_tail=columns[f"{prefix}tail"],
            tail=kind.tail,
            prior=store.prior(head),
            lengths=lengths,
            which=columns.get(f"{prefix}which"),
        )
    if isinstance(encoding, Dense) and encoding.dtype in {"f16", "f32"}:
        return DenseLabels(columns[f"{prefix}values"], kind.kind, lengths)
    return store.decode(columns, head)
