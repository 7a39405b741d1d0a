"""A check that a store's labels are those of the teacher at hand: a few stored rows are computed again.

A digest covers code and weights as far as they can be read. A ``python:`` teacher may load weights from a file that was
replaced since. So before a store is resumed, or rows of another store are copied, up to 16 stored rows are compared
with what the teacher predicts now. The tolerance adapts: encoding loses something, and some teachers differ from pass
to pass, so a second prediction is encoded and compared in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings import Codebook
from softlabels.errors import StoreConflict
from softlabels.generation.outputs import of_predictions
from softlabels.generation.row_plan import RowPlan
from softlabels.labels import DISTRIBUTIONS, DenseLabels, Head, SoftLabels, log_softmax
from softlabels.models import Model
from softlabels.store import Descriptor, RowCopier, Storage, StoreWriter
from softlabels.store.format.descriptor import LENGTH
from softlabels.store.unit_reader import UnitReader

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 16
"""Rows that are computed again."""

UNITS = 4
"""Units of a store that they are taken from."""

SCANNED = 65_536
"""Rows that are looked up at a time in stores to copy from."""

MAX_NATS = 0.15
"""Change of the logits that is tolerated; rounding of half precision on another accelerator changes them by less."""

MAX_RELATIVE = 0.05
"""Change of other values that is tolerated, relative to their standard deviation over the rows."""

NOISE = 3.0
"""Tolerated multiple of the difference that encoding and a second pass make by themselves."""

POSITIONS = 16
"""Positions of a ragged row that are compared."""

MAX_NATS_BELOW = 30.0
"""Log-probabilities below minus this are not compared: nobody sees how they are rounded."""

CERTAIN = 1e-3
"""Least share of the other classes in a probability, so that a certain one is not judged by its last digit."""

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Stored:
    """A store whose rows are compared.

    Attributes:
        storage: Storage of the store.
        descriptor: Its descriptor.
        codebooks: Its codebooks by head.
    """

    storage: Storage
    descriptor: Descriptor
    codebooks: Mapping[str, Codebook]


def check_resumed(store: StoreWriter, plan: RowPlan, teacher: Model, *, rows: int = ROWS) -> None:
    """Raise if rows that a store holds are not what the teacher predicts now; do nothing if it holds none.

    Args:
        store: Store that is resumed.
        plan: Rows of the store.
        teacher: The model.
        rows: Most rows to predict at a time.

    Raises:
        StoreConflict: The labels differ.
        StoreCorrupt: A unit is damaged.
    """
    units = store.committed_units()
    count = min(UNITS, ROWS, rows, len(units))
    numbers, batches = [], []
    for index in np.unique(np.linspace(0, len(units) - 1, num=count).astype(int)) if units else []:
        record = store.record(units[index])
        if not record.rows:
            continue
        reader = UnitReader(store.storage, store.descriptor, record)
        columns = reader.read_chunk(0)
        spread = np.linspace(0, len(columns["key"]) - 1, num=min(ROWS, rows) // count)
        picked = np.unique(spread.astype(np.int64))
        batches.append(ragged.take(columns, store.descriptor.columns(), picked))
        numbers.append(store.descriptor.unit_range(units[index]).start + record.row_numbers[picked])
    if batches:
        stored = Stored(store.storage, store.descriptor, store.codebooks)
        _compare(stored, ragged.join(batches), plan, np.concatenate(numbers), teacher)


def check_copied(copier: RowCopier, plan: RowPlan, teacher: Model, *, rows: int = ROWS) -> list[int]:
    """Raise if rows that are to be copied from other stores are not what the teacher predicts now.

    Args:
        copier: Stores that rows are copied from.
        plan: Rows that the teacher can predict.
        teacher: The model.
        rows: Most rows to predict at a time.

    Returns:
        Number of rows that were predicted, by store; 0 for a store with no row of ``plan``.

    Raises:
        StoreConflict: The labels differ.
        StoreCorrupt: A store is damaged.
    """
    count = min(ROWS, rows)
    matches: dict[int, list[tuple[int, int]]] = {index: [] for index in range(len(copier.stores))}
    for start in range(0, len(plan), SCANNED):
        stop = min(start + SCANNED, len(plan))
        numbers = copier.find(*plan.names(start, stop))
        hits = np.flatnonzero(numbers >= 0)
        indices = copier.store_indices(numbers[hits])
        for index, pairs in matches.items():
            own = hits[indices == index]
            spread = own[np.unique(np.linspace(0, len(own) - 1, num=count).astype(int))] if len(own) else own
            pairs += [(start + int(row), int(numbers[row])) for row in spread[: count - len(pairs)]]
        if all(len(pairs) == count for pairs in matches.values()):
            break
    for index, pairs in matches.items():
        if pairs:
            own_rows, copied = np.array(pairs, np.int64).T
            store = copier.stores[index]
            columns = copier.columns(copied, list(store.descriptor.columns()))
            _compare(Stored(store.storage, store.descriptor, store.codebooks()), columns, plan, own_rows, teacher)
    return [len(pairs) for pairs in matches.values()]


def _compare(store: Stored, columns: Columns, plan: RowPlan, rows: NDArray[np.int64], teacher: Model) -> None:
    """Raise unless stored rows are close to the teacher's predictions for the same examples."""
    heads = store.descriptor.heads
    inputs = plan.inputs(rows)
    first, second = (of_predictions(teacher.predict_sliced(inputs), heads, inputs) for _ in range(2))
    for head_name, head in heads.items():
        lengths = first[head_name].lengths
        difference, tolerance = np.inf, 0.0
        if lengths is None or np.array_equal(lengths, columns[f"{head_name}/{LENGTH}"]):
            items = _spread_items(len(rows), lengths)
            stored = _decode(store, head_name, columns).take(items)
            values = first[head_name].values[items].float().cpu().numpy()
            encoded = _encode(store, head_name, second[head_name].values[items])
            noise = _difference(_decode(store, head_name, encoded), values, head)
            difference = _difference(stored, values, head)
            tolerance = (MAX_NATS if head.kind in DISTRIBUTIONS else MAX_RELATIVE) + NOISE * noise
        if not difference <= tolerance:
            unit = "nats" if head.kind in DISTRIBUTIONS else "standard deviations"
            raise StoreConflict(
                f"{store.storage}: the labels are of another teacher, head {head_name!r} differs from what the teacher "
                f"predicts now by {difference:.2g} {unit} in {len(rows)} rows; expected at most {tolerance:.2g}. Were "
                "weights, code or data replaced under the same name? Label into another directory, and tell teachers "
                "apart with teacher_version="
            )


def _spread_items(rows: int, lengths: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the items to compare: all rows, or up to POSITIONS positions of each ragged row."""
    if lengths is None:
        return np.arange(rows, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    positions = [
        start + np.unique(np.linspace(0, length - 1, num=min(POSITIONS, length)).astype(np.int64))
        for start, length in zip(starts, lengths, strict=True)
    ]
    return np.concatenate([np.empty(0, np.int64), *positions])


def _encode(store: Stored, name: str, values: Tensor) -> Columns:
    encoding, head = store.descriptor.encoding(name), store.descriptor.heads[name]
    numbers = np.arange(len(values), dtype=np.int64)
    arrays = encoding.encode(values, head, numbers, codebook=store.codebooks.get(name)).arrays
    return {f"{name}/{column}": array for column, array in arrays.items()}


def _decode(store: Stored, name: str, columns: Columns) -> SoftLabels:
    """Return the labels of all items; a tail prior is not needed for the classes that are listed, a codebook may be."""
    encoding, head = store.descriptor.encoding(name), store.descriptor.heads[name]
    arrays = {column: columns[f"{name}/{column}"] for column in encoding.columns(head)}
    codebook = store.codebooks.get(name)
    return encoding.decode(arrays, head, None if codebook is None else codebook.priors)


def _difference(labels: SoftLabels, values: NDArray[np.float32], head: Head) -> float:
    """Return the median difference between labels and values: in nats of logits, or in standard deviations."""
    if isinstance(labels, DenseLabels) and head.kind not in DISTRIBUTIONS:
        flat = values.reshape(len(values), -1).astype(np.float64)
        scale = np.maximum(flat.std(axis=0), 1e-6 + 1e-3 * np.abs(flat).mean(axis=0))
        return float(np.median(np.abs(labels.values.reshape(flat.shape) - flat) / scale)) if flat.size else 0.0
    log_probs = log_softmax(values.reshape(-1, head.classes)).astype(np.float64)
    if isinstance(labels, DenseLabels):
        stored, expected = log_softmax(labels.values.reshape(-1, head.classes)).astype(np.float64), log_probs
    else:
        temperature = labels.temperatures[0]
        stored = labels.listed_log_probs(temperature).astype(np.float64)
        log_probs = log_softmax(values.reshape(-1, head.classes), temperature).astype(np.float64)
        expected = np.take_along_axis(log_probs, labels.ids.astype(np.int64), axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        # A class of probability p moves by (1 - p) where logits move by 1, so certain rows are judged as others are.
        apart = np.abs(stored - expected) / np.maximum(1 - np.exp(expected), CERTAIN)
    relevant = np.isfinite(stored) & (expected > -MAX_NATS_BELOW)
    return float(np.median(apart[relevant])) if relevant.any() else 0.0
