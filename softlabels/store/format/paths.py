"""Where things are in a store. Paths are computed, never taken from a file (docs/FORMAT.md, section 2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from softlabels.store.storage import posix

DESCRIPTOR = "softlabels.json"
NUMBERED = re.compile(r"([0-9]{8,12})\.json")
ATTEMPT = re.compile(r"[0-9a-f]{32}")
SUFFIX = {"zarr": ".zarr.zip", "parquet": ".parquet"}
CODEBOOKS = "codebooks"
TOKENIZERS = "tokenizers"
OWN = ("records", CODEBOOKS, TOKENIZERS, "shards", "extras", "snapshots", "probe", "quarantine", posix.TEMPORARY)
"""Directories of a store."""


def _shelf(unit: int) -> str:
    """Units lie 4,096 to a directory, so that no directory grows without bound."""
    return f"{unit // 4096:02d}"


def record_path(root: Path, unit: int) -> Path:
    """The record whose existence commits ``unit``."""
    return root / "records" / _shelf(unit) / f"{unit:08d}.json"


def shard_path(root: Path, unit: int, attempt: str, shard_format: str) -> Path:
    """The shard one attempt at ``unit`` wrote."""
    return root / "shards" / _shelf(unit) / f"{unit:08d}-{attempt}{SUFFIX[shard_format]}"


def extras_path(root: Path, unit: int, attempt: str) -> Path:
    """The sums and dense rows of one attempt at ``unit``."""
    return root / "extras" / _shelf(unit) / f"{unit:08d}-{attempt}.safetensors"


def codebook_path(root: Path, digest: str) -> Path:
    """The tail priors that a head's rows choose from."""
    return root / CODEBOOKS / f"{digest[:32]}.safetensors"


def tokenizer_path(root: Path, digest: str) -> Path:
    """Return the path of the tokenizer that made the token ids."""
    return root / TOKENIZERS / f"{digest[:32]}.json"


def snapshot_path(root: Path, number: int) -> Path:
    """Snapshot ``number``."""
    return root / "snapshots" / f"{number:08d}.json"


def table_path(root: Path, number: int, digest: str) -> Path:
    """The table of units of a snapshot."""
    return root / "snapshots" / f"{number:08d}-{digest[:16]}.parquet"


def prior_path(root: Path, number: int, digest: str) -> Path:
    """The tail priors of a snapshot."""
    return root / "snapshots" / f"{number:08d}-{digest[:16]}.safetensors"


def probe_path(root: Path, number: int, digest: str) -> Path:
    """The dense sample of a snapshot."""
    return root / "probe" / f"{number:08d}-{digest[:16]}.safetensors"


def committed_units(root: Path) -> Iterator[int]:
    """Units that have a record, ascending."""
    shelves = (name for name in posix.list_names(root, root / "records") if re.fullmatch(r"[0-9]{2,9}", name))
    for shelf in sorted(shelves, key=int):
        for unit in sorted(_numbers(root, root / "records" / shelf)):
            if _shelf(unit) == shelf:  # elsewhere nobody would look for it
                yield unit


def snapshot_numbers(root: Path) -> list[int]:
    """Numbers of the snapshots there are, ascending."""
    return sorted(_numbers(root, root / "snapshots"))


def _numbers(root: Path, folder: Path) -> Iterator[int]:
    """Numbers that name JSON files in a directory, in their one spelling."""
    for name in posix.list_names(root, folder):
        match = NUMBERED.fullmatch(name)
        if match and name == f"{int(match[1]):08d}.json":
            yield int(match[1])


QUARANTINE = "quarantine"
