"""The formats of shards by name, one module each.

A module ``softlabels/store/shards/NAME_shard.py`` defines ``FORMAT``, a ``ShardFormat``. It is found by its name and
imported when a store of that format is; nothing else lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

from softlabels.errors import InvalidArgument
from softlabels.store import shards

if TYPE_CHECKING:
    from softlabels.store.format.descriptor import Descriptor
    from softlabels.store.format.record import Range
    from softlabels.store.shards.hashed_file import HashedFile
    from softlabels.store.shards.shard import ShardReader, ShardWriter

MODULE = "_shard"
"""End of the name of a module that defines a format."""


@dataclass(frozen=True, kw_only=True)
class ShardFormat:
    """A file format of shards.

    Attributes:
        suffix: End of the names of shards, such as ``.parquet``.
        open_writer: Function from a new file and the store's descriptor to a writer.
        open_reader: Function from the descriptor and the byte ranges of the chunks to a reader.
        list_bytes: Bytes that decoding takes for each number in a list, beside the number.
    """

    suffix: str
    open_writer: Callable[[HashedFile, Descriptor], ShardWriter]
    open_reader: Callable[[Descriptor, tuple[Range, ...]], ShardReader]
    list_bytes: int = 0


@cache
def names() -> tuple[str, ...]:
    """Return the names of all formats, the default first.

    Example:
        >>> names()
        ('zarr', 'parquet')
    """
    modules = [entry.name for entry in pkgutil.iter_modules(shards.__path__)]
    return tuple(sorted((name.removesuffix(MODULE) for name in modules if name.endswith(MODULE)), reverse=True))


def shard_format(name: str) -> ShardFormat:
    """Return the format of that name.

    Raises:
        InvalidArgument: There is no such format.
    """
    if name not in names():
        raise InvalidArgument(f"shard format: got {name!r}; expected {' or '.join(names())}")
    return _load(name)


@cache
def _load(name: str) -> ShardFormat:
    return cast("ShardFormat", importlib.import_module(f"{shards.__name__}.{name}{MODULE}").FORMAT)
