"""Choice of the rows, heads and classes of a store that a copy holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.keys import KEY_BYTES, as_keys
from softlabels.store import Store
from softlabels.store.format.provenance import SubsetRecord

ROWS = re.compile(r"(\d*):(\d*)")
HEX_KEY = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}")
MAX_KEY_FILE_BYTES = 2**34

KeyNames = str | os.PathLike[str] | Sequence[object] | NDArray[Any]
"""A file with one key or id a line, or the keys or ids themselves."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows, heads and classes that a copy holds; make one with `Selection.of`.

    Attributes:
        rows: First row, and row behind the last one (None: the end of the store); None for all rows.
        keys: Keys of the rows, (n, 16), sorted, each once; None for all keys.
        heads: Names of the heads; None for all.
        views: Views of the rows; None for all.
        top: Number of likeliest classes of each row; None for those of the store.
    """

    rows: tuple[int, int | None] | None = None
    keys: NDArray[np.uint8] | None = None
    heads: tuple[str, ...] | None = None
    views: tuple[int, ...] | None = None
    top: int | None = None

    @classmethod
    def of(
        cls,
        *,
        rows: str | None = None,
        keys: KeyNames | None = None,
        heads: Iterable[str] | None = None,
        views: Iterable[int] | None = None,
        top: int | None = None,
    ) -> Selection | None:
        """Return the selection of a user's options; None if everything is selected.

        Args:
            rows: Range of row numbers, such as ``0:1000``, ``500:`` or ``:1000``.
            keys: Keys or ids, or the path of a text file with one of them a line. Keys are 32 hexadecimal digits.
            heads: Names of heads.
            views: Numbers of views.
            top: Number of likeliest classes of each row.

        Raises:
            InvalidArgument: A value is invalid, or selects nothing.

        Example:
            >>> Selection.of(rows="10:20", top=4).to_record("0" * 64).rows
            (10, 20)
        """
        if top is not None and top < 1:
            raise InvalidArgument(f"top: got {top}; expected a number of classes, 1 or more")
        names = None if heads is None else tuple(dict.fromkeys(heads))
        numbers = None if views is None else tuple(sorted(set(views)))
        if names == () or numbers == () or (numbers and numbers[0] < 0):
            raise InvalidArgument(f"heads and views: got {names} and {numbers}; expected one or more of each")
        if rows is None and keys is None and names is None and numbers is None and top is None:
            return None
        return cls(
            rows=None if rows is None else _range(rows),
            keys=None if keys is None else _keys(keys),
            heads=names,
            views=numbers,
            top=top,
        )

    def to_record(self, snapshot: str) -> SubsetRecord:
        """Return the selection as the descriptor of the copy holds it.

        Args:
            snapshot: Digest of the snapshot that is copied from.
        """
        keys = None if self.keys is None else str(blake3(np.ascontiguousarray(self.keys).data).hexdigest())
        return SubsetRecord(
            snapshot=snapshot, rows=self.rows, keys=keys, heads=self.heads, views=self.views, top=self.top
        )

    def head_names(self, store: Store) -> list[str]:
        """Return the names of the heads that are copied, in the order of the store.

        Raises:
            InvalidArgument: The store lacks a head.
        """
        if self.heads is None:
            return list(store.heads)
        if missing := [name for name in self.heads if name not in store.heads]:
            raise InvalidArgument(
                f"heads: {store.storage} has no head {missing[0]!r}; expected some of {', '.join(store.heads)}"
            )
        return [name for name in store.heads if name in self.heads]

    def row_numbers(self, store: Store) -> NDArray[np.int64]:
        """Return the numbers of the rows that are copied, ascending, (n,).

        Raises:
            InvalidArgument: No row is selected, or the store lacks one of the keys.
            StoreCorrupt: A unit is damaged.
        """
        start, stop = self.rows or (0, None)
        stop = store.rows if stop is None else stop
        if stop > store.rows:
            raise InvalidArgument(f"rows: got {start}:{stop}; expected at most {store.rows}, the rows of the store")
        numbers = np.arange(start, stop, dtype=np.int64)
        if self.keys is not None or self.views is not None:
            numbers = self._filtered(store, start, stop)
        if not len(numbers):
            raise InvalidArgument(
                f"{store.storage}: no row is selected; expected at least one. Choose other rows, keys or views"
            )
        return numbers

    def _filtered(self, store: Store, start: int, stop: int) -> NDArray[np.int64]:
        """Return the rows of a range whose keys and views are selected."""
        first, last = store.chunk_index.locate(np.array([start, stop - 1]))[0] if stop > start else (0, -1)
        starts = np.cumsum(store.chunk_rows()) - store.chunk_rows()
        selected, seen = [], []
        selected_keys = None if self.keys is None else _as_items(self.keys)
        chunks = range(int(first), int(last) + 1)
        for chunk, columns in zip(chunks, store.read_chunks(chunks, ["key", "view"]), strict=True):
            numbers = starts[chunk] + np.arange(len(columns["key"]))
            is_selected = (numbers >= start) & (numbers < stop)
            if self.views is not None:
                is_selected &= np.isin(columns["view"], self.views)
            if selected_keys is not None:
                items = _as_items(columns["key"])
                is_selected &= np.isin(items, selected_keys)
                seen.append(np.unique(items[is_selected]))
            selected.append(numbers[is_selected])
        if selected_keys is not None:
            absent = np.setdiff1d(selected_keys, np.concatenate([*seen, np.empty(0, selected_keys.dtype)]))
            if len(absent):
                example = absent[:1].tobytes().hex()
                raise InvalidArgument(
                    f"keys: {len(absent):,} of {len(selected_keys):,} are not among the selected rows of "
                    f"{store.storage}, such as {example}; expected keys or ids of the store. Leave them out"
                )
        return np.concatenate([*selected, np.empty(0, np.int64)]).astype(np.int64)


def _as_items(keys: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return keys as items that NumPy compares, (n,)."""
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").reshape(-1)


def _range(text: str) -> tuple[int, int | None]:
    match = ROWS.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise InvalidArgument(f"rows: got {text!r:.60}; expected a range such as 0:1000, 500: or :1000")
    start, stop = int(match[1] or 0), int(match[2]) if match[2] else None
    if stop is not None and stop <= start:
        raise InvalidArgument(f"rows: got the empty range {text!r:.60}; expected an end above the start")
    return start, stop


def _keys(names: KeyNames) -> NDArray[np.uint8]:
    """Return distinct keys, sorted, (n, 16)."""
    if isinstance(names, str | os.PathLike):
        names = _read_lines(Path(names))
    if all(isinstance(name, str) and HEX_KEY.fullmatch(name) for name in names) and len(names):
        keys = np.frombuffer(bytes.fromhex("".join(map(str, names))), np.uint8).reshape(-1, KEY_BYTES)
    else:
        keys = as_keys(names)
    if not len(keys):
        raise InvalidArgument("keys: got none; expected one key or id a line")
    return np.unique(keys, axis=0)


def _read_lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_KEY_FILE_BYTES:
            raise InvalidArgument(f"{path}: got a file of {path.stat().st_size:,} bytes; expected one key or id a line")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            f"{path}: cannot be read, got {error}; expected a text file with one key or id a line"
        ) from None
    return [line for line in (line.strip() for line in text.splitlines()) if line]
