"""Garbage: files that no commit refers to, found and, where asked, deleted.

Never part of a commit. Nothing younger than seven days, by the clock of the file system the store is on, is touched: a
shard without a record may be a commit that is under way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from softlabels.errors import InvalidArgument
from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor, open_root
from softlabels.store.format.record import read_record
from softlabels.store.format.snapshot import read_snapshot
from softlabels.store.storage import posix

DAY = 86_400.0
YOUNGEST = 7 * DAY
WRITTEN_FOR = re.compile(r"([0-9]{8,12})-([0-9a-f]{32})\.(zarr\.zip|parquet|safetensors)")


@dataclass(frozen=True)
class OrphanedFile:
    """A file that nothing refers to.

    Attributes:
        path: where it is.
        size: in bytes.
        reason: why nobody needs it.
    """

    path: Path
    size: int
    reason: str


def collect_garbage(path: str | Path, *, delete: bool = False, older_than: float = YOUNGEST) -> list[OrphanedFile]:
    """Files of a store that nothing refers to.

    Args:
        path: the store.
        delete: delete them; otherwise they are only named.
        older_than: seconds since a file was last changed, at least; of what a crash left less than seven days ago, some
            may be a commit under way.

    Raises:
        StoreNotFound: no store there.
        StoreCorrupt: a record or snapshot is damaged, so that it cannot be said what it refers to; repair first.
        InvalidArgument: a negative age.
    """
    if older_than < 0:
        raise InvalidArgument(f"an age is 0 or more seconds, not {older_than}")
    root, descriptor = open_root(path)
    before = posix.clock(root) - older_than
    found = []
    for file, reason in _unreferenced(root, descriptor):
        changed, size = posix.age_and_size(file)
        if changed <= before:
            found.append(OrphanedFile(file, size, reason))
    if delete:
        for litter in found:
            posix.delete(root, litter.path)
    return found


def _unreferenced(root: Path, descriptor: Descriptor) -> Iterator[tuple[Path, str]]:
    for file in posix.walk(root, root / posix.TEMPORARY):
        if file.suffix != ".lock":
            yield file, "never got a name: a writer died or was stopped"
    for file in posix.walk(root, root / "quarantine"):
        yield file, "set aside by repair"
    yield from _attempts(root, descriptor)
    yield from _beside_snapshots(root)


def _attempts(root: Path, descriptor: Descriptor) -> Iterator[tuple[Path, str]]:
    """Shards and extras of attempts that were not committed."""
    for folder in ("shards", "extras"):
        for file in posix.walk(root, root / folder):
            match = WRITTEN_FOR.fullmatch(file.name)
            if not match:
                continue
            unit = int(match[1])
            if not paths.record_path(root, unit).exists():
                yield file, f"unit {unit} is not committed"
            elif read_record(root, unit, descriptor).attempt != match[2]:
                yield file, f"another attempt at unit {unit} was committed"


def _beside_snapshots(root: Path) -> Iterator[tuple[Path, str]]:
    """Tables, priors and probes that no snapshot names."""
    named = set()
    for number in paths.snapshot_numbers(root):
        snapshot = read_snapshot(root, number)
        named.add(paths.table_path(root, number, snapshot.table))
        if snapshot.prior is not None:
            named.add(paths.prior_path(root, number, snapshot.prior))
        if snapshot.probe is not None:
            named.add(paths.probe_path(root, number, snapshot.probe))
    for folder in ("snapshots", "probe"):
        for file in posix.walk(root, root / folder):
            if file.suffix in {".parquet", ".safetensors"} and file not in named:
                yield file, "no snapshot names it: sealing was interrupted"
