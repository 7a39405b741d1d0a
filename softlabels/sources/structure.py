"""What inputs look like in a batch: an array, sequences of unlike lengths, or whatever structure a dataset gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Sequences of unlike lengths, one after the other.

    Attributes:
        values: (N, ...) entries of all sequences.
        lengths: (B,) entries of each, N in all.
    """

    values: Any
    lengths: Any

    def __len__(self) -> int:
        return len(self.lengths)


def is_array(value: Any) -> bool:
    """Whether something is a NumPy array or a torch tensor."""
    return isinstance(value, np.ndarray) or (hasattr(value, "pin_memory") and hasattr(value, "dtype"))


def map_arrays(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with every array or tensor changed; anything else stays as it is."""
    if is_array(value):
        return change(value)
    if isinstance(value, Ragged):
        return Ragged(change(value.values), change(value.lengths))
    if isinstance(value, Mapping):
        return {name: map_arrays(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [map_arrays(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def join_inputs(parts: Sequence[Any], concatenate: Callable[[Sequence[Any]], Any]) -> Any:
    """Inputs of batches one after the other; all parts have one structure."""
    first = parts[0]
    if first is None or len(parts) == 1:
        return first
    if is_array(first):
        return concatenate(parts)
    if isinstance(first, Ragged):
        return Ragged(concatenate([part.values for part in parts]), concatenate([part.lengths for part in parts]))
    if isinstance(first, Mapping):
        return {name: join_inputs([part[name] for part in parts], concatenate) for name in first}
    if isinstance(first, list | tuple) and not all(is_array(part) or isinstance(part, Ragged) for part in first):
        return type(first)([each for part in parts for each in part])
    if isinstance(first, list | tuple):
        joined = [join_inputs([part[i] for part in parts], concatenate) for i in range(len(first))]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    raise TypeError(f"inputs of type {type(first).__name__} cannot be put together")
