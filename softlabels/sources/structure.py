"""The inputs of a batch: an array, sequences of different lengths, or the structure that a dataset returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softlabels.text.rows import LABELLED


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths, one after the other.

    Attributes:
        values: (N, ...) entries of all sequences.
        lengths: (B,) number of entries of each sequence, N in total.
        marks: (N,) uint8 flags of each token, see softlabels.text.rows; None: not tokens of a text.

    Example:
        >>> len(Ragged(np.array([1, 2, 3]), np.array([2, 1])))
        2
    """

    values: Any
    lengths: Any
    marks: Any = None

    def positions(self) -> Any:
        """Return the number of labelled positions of each row, (B,) int64; of all entries without marks."""
        lengths = np.asarray(self.lengths, dtype=np.int64)
        if self.marks is None:
            return lengths
        ends = np.concatenate([[0], np.cumsum(lengths)])
        labelled = np.concatenate([[0], np.cumsum((np.asarray(self.marks) & LABELLED) > 0)])
        return np.diff(labelled[ends])

    def __len__(self) -> int:
        return len(self.lengths)


def is_array(value: Any) -> bool:
    """Return True for a NumPy array or a torch tensor."""
    return isinstance(value, np.ndarray) or (hasattr(value, "pin_memory") and hasattr(value, "dtype"))


def map_arrays(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same structure with ``change`` applied to every array or tensor; other values stay as they are.

    Args:
        value: Arrays, tensors and Ragged, nested in mappings, lists and tuples.
        change: Function from an array to its replacement.

    Example:
        >>> map_arrays({"x": np.array([1, 2]), "name": "a"}, lambda array: array.sum().item())
        {'x': 3, 'name': 'a'}
    """
    if is_array(value):
        return change(value)
    if isinstance(value, Ragged):
        marks = None if value.marks is None else change(value.marks)
        return Ragged(change(value.values), change(value.lengths), marks)
    if isinstance(value, Mapping):
        return {name: map_arrays(entry, change) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [map_arrays(entry, change) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def join_inputs(batches: Sequence[Any], concatenate: Callable[[Sequence[Any]], Any]) -> Any:
    """Return the inputs of several batches as those of one.

    Args:
        batches: Inputs of one structure, at least one.
        concatenate: Function that joins arrays along the first axis.

    Raises:
        TypeError: The inputs have a type that cannot be joined.

    Example:
        >>> join_inputs([np.array([1]), np.array([2, 3])], np.concatenate).tolist()
        [1, 2, 3]
    """
    first = batches[0]
    if first is None or len(batches) == 1:
        return first
    if is_array(first):
        return concatenate(batches)
    if isinstance(first, Ragged):
        columns = [[getattr(batch, name) for batch in batches] for name in ("values", "lengths", "marks")]
        return Ragged(*(None if column[0] is None else concatenate(column) for column in columns))
    if isinstance(first, Mapping):
        return {name: join_inputs([batch[name] for batch in batches], concatenate) for name in first}
    if isinstance(first, list | tuple) and not all(is_array(entry) or isinstance(entry, Ragged) for entry in first):
        return type(first)([entry for batch in batches for entry in batch])
    if isinstance(first, list | tuple):
        joined = [join_inputs([batch[i] for batch in batches], concatenate) for i in range(len(first))]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    raise TypeError(f"inputs of type {type(first).__name__} cannot be joined; expected arrays, or structures of them")
