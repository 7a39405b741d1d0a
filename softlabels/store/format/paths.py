"""Names of the files of a store. Names are computed, never taken from a file (docs/FORMAT.md, section 2)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator

from softlabels.store.shards.registry import shard_format as format_of
from softlabels.store.storage.storage import Storage

DESCRIPTOR = "softlabels.json"
NUMBERED = re.compile(r"([0-9]{8,12})\.json")
TABLE = re.compile(r"([0-9]{8,12})-[0-9a-f]{16}\.parquet")
ATTEMPT = re.compile(r"[0-9a-f]{32}")
RECORDS, SHARDS, EXTRAS = "records", "shards", "extras"
SNAPSHOTS, PROBE = "snapshots", "probe"
CODEBOOKS = "codebooks"
TOKENIZERS = "tokenizers"
DESCRIPTIONS = "description"
QUARANTINE = "quarantine"
UNITS_PER_DIRECTORY = 4096


def _directory(unit: int) -> str:
    """Return the directory of a unit, which bounds how many files one directory has."""
    return f"{unit // UNITS_PER_DIRECTORY:02d}"


def record_path(unit: int) -> str:
    """Return the name of the record that commits ``unit``."""
    return f"{RECORDS}/{_directory(unit)}/{unit:08d}.json"


def shard_path(unit: int, attempt: str, shard_format: str) -> str:
    """Return the name of the shard that one attempt at ``unit`` wrote."""
    return f"{SHARDS}/{_directory(unit)}/{unit:08d}-{attempt}{format_of(shard_format).suffix}"


def extras_path(unit: int, attempt: str) -> str:
    """Return the name of the sums and dense rows of one attempt at ``unit``."""
    return f"{EXTRAS}/{_directory(unit)}/{unit:08d}-{attempt}.safetensors"


def codebook_path(digest: str) -> str:
    """Return the name of a codebook of tail priors."""
    return f"{CODEBOOKS}/{digest[:32]}.safetensors"


def tokenizer_path(digest: str) -> str:
    """Return the name of the tokenizer that made the token ids."""
    return f"{TOKENIZERS}/{digest[:32]}.json"


def snapshot_path(number: int) -> str:
    """Return the name of snapshot ``number``."""
    return f"{SNAPSHOTS}/{number:08d}.json"


def table_path(number: int, digest: str) -> str:
    """Return the name of the table of units of a snapshot."""
    return f"{SNAPSHOTS}/{number:08d}-{digest[:16]}.parquet"


def prior_path(number: int, digest: str) -> str:
    """Return the name of the tail priors of a snapshot."""
    return f"{SNAPSHOTS}/{number:08d}-{digest[:16]}.safetensors"


def probe_path(number: int, digest: str) -> str:
    """Return the name of the dense sample of a snapshot."""
    return f"{PROBE}/{number:08d}-{digest[:16]}.safetensors"


def description_path(number: int) -> str:
    """Return the name of description ``number`` by the owner of the store."""
    return f"{DESCRIPTIONS}/{number:08d}.json"


def quarantine_path(name: str) -> str:
    """Return the name that a damaged file gets."""
    return f"{QUARANTINE}/{name}"


def record_directories(storage: Storage) -> Iterator[str]:
    """Yield the directories of records, in the order of their units."""
    names = (name for name in storage.list_names(RECORDS) if re.fullmatch(r"[0-9]{2,9}", name))
    for name in sorted(names, key=int):
        yield f"{RECORDS}/{name}"


def committed_units(storage: Storage) -> Iterator[int]:
    """Yield the units that have a record, ascending."""
    for directory in record_directories(storage):
        for unit in sorted(_numbers(storage.list_names(directory))):
            if directory == f"{RECORDS}/{_directory(unit)}":  # nothing looks for a record elsewhere
                yield unit


def durable_units(storage: Storage) -> list[int]:
    """Return the units that have a record, ascending, once the names of all records are durable.

    A process that died after it stored a record may not have made its name durable.
    """
    units = list(committed_units(storage))
    for directory in dict.fromkeys(posixpath.dirname(record_path(unit)) for unit in units):
        storage.settle(directory)
    return units


def snapshot_numbers(storage: Storage) -> list[int]:
    """Return the numbers of all snapshots, ascending."""
    return snapshots(storage)[0]


def snapshots(storage: Storage) -> tuple[list[int], int | None]:
    """Return the numbers of all snapshots, ascending, and that of a lost one.

    A snapshot is lost if its number is above all others and its table is there, which is stored right before it: it was
    removed, or sealing was interrupted.

    Args:
        storage: Storage of the store; its directory of snapshots is listed once.
    """
    names = storage.list_names(SNAPSHOTS)
    numbers = sorted(_numbers(names))
    newest = max((int(match[1]) for name in names if (match := TABLE.fullmatch(name))), default=0)
    return numbers, newest if newest > max(numbers, default=0) else None


def description_numbers(storage: Storage) -> list[int]:
    """Return the numbers of all descriptions, ascending."""
    return sorted(_numbers(storage.list_names(DESCRIPTIONS)))


def _numbers(names: Iterable[str]) -> Iterator[int]:
    """Yield the numbers that name JSON files, in their one spelling."""
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match and name == f"{int(match[1]):08d}.json":
            yield int(match[1])
