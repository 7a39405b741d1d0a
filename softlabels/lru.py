"""A mapping that holds the entries that were used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Entries up to a limit; those that were not used for the longest time leave first.

    It has no lock, which a fork would copy in any state; threads may use it together. The entry that was put last
    stays, also if it is larger than the limit.

    Args:
        limit: Greatest sum of the sizes of all entries.
        size_of: Function from a value to its size; None: every entry counts as 1.

    Example:
        >>> cache = LruCache(2)
        >>> for name in "aba":
        ...     cache.put(name, name.upper())
        >>> cache.put("c", "C")
        >>> cache.get("a"), cache.get("b")
        ('A', None)
    """

    def __init__(self, limit: int, size_of: Callable[[Value], int] | None = None) -> None:
        self._limit = limit
        self._size_of = size_of
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """Return the value of a key, which counts as a use; None if it is not held."""
        try:  # another thread may remove the entry between two steps
            self._entries.move_to_end(key)
            return self._entries[key][0]
        except KeyError:
            return None

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()

    def put(self, key: Key, value: Value) -> None:
        """Store a value.

        Args:
            key: Key of the value; a value that it had is replaced.
            value: The value.
        """
        size = 1 if self._size_of is None else self._size_of(value)
        self._entries.pop(key, None)
        self._entries[key] = (value, size)
        with suppress(KeyError):  # another thread may remove entries, too
            while self._total() > self._limit and len(self._entries) > 1:
                self._entries.popitem(last=False)

    def _total(self) -> int:
        """Return the sum of the sizes; a sum kept over calls would drift where several threads put."""
        if self._size_of is None:
            return len(self._entries)
        return sum(size for _, size in list(self._entries.values()))
