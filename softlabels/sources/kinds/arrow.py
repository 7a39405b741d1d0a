"""Arrow IPC files (also Feather) by record batch, and Arrow streams into memory.

Arrow's IPC reader trusts a file's metadata, and a prepared file can crash the process. So a file is first read and
fully validated in a child process (arrow_probe.py, about half a second); if that process dies, the file is refused.
Every batch that is read later is validated again. Files are read, not mapped, so a truncated file is no SIGBUS.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from softlabels.errors import InvalidData
from softlabels.sources.column_roles import check_unique
from softlabels.sources.expansion import limit_of
from softlabels.sources.kinds import arrow_probe
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest, reading
from softlabels.sources.tables import BlockTable, MemoryTable

PROBE_SECONDS = 60
PROBE_BYTES_PER_SECOND = 10 * 2**20
"""Time limit of the probe: a minute, and a second for every 10 MiB."""

FileState = tuple[int, int, int, int]


@dataclass(frozen=True)
class Probed:
    """The result of a probe.

    Attributes:
        state: Device, inode, size and time of change of the file that was probed.
        batch_rows: Rows of each record batch; None for a stream.
    """

    state: FileState
    batch_rows: list[int] | None


def open_arrow(path: Path, name: str, probed: Probed | None = None) -> BlockTable | MemoryTable:
    """Return the rows of an Arrow IPC file or stream.

    Args:
        path: The file.
        name: Its name in messages.
        probed: Result of an earlier probe, perhaps in another process; None to probe the file now.

    Raises:
        InvalidData: The file is not Arrow IPC, is damaged, or crashes Arrow's reader.
    """
    with reading(name, "Arrow IPC"):
        state = _file_state(path)
        if probed is None or probed.state != state:
            probed = Probed(state, probe(path, name, state[2]))
        if _file_state(path) != state:
            raise InvalidData(f"{name}: the file changes while it is read. Try again when it is complete")
        source = pa.OSFile(str(path))
        if probed.batch_rows is None:
            table = pa.ipc.open_stream(source).read_all()
            table.validate(full=True)
            return MemoryTable(name, table, (open_arrow, (path, name, probed)))
        schema = pa.ipc.open_file(source).schema
        check_unique(schema.names, name)

    @functools.cache
    def reader(columns: tuple[str, ...]) -> pa.RecordBatchFileReader:
        """Return a reader of some columns, so that others are not decoded."""
        positions = [schema.get_field_index(column) for column in columns]
        return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=positions, use_threads=False))

    def read_batch(number: int, columns: list[str]) -> pa.Table:
        """Return columns of one record batch, validated."""
        batch = reader(tuple(columns)).get_batch(number)
        batch.validate(full=True)
        return pa.Table.from_batches([batch]).select(columns)

    return BlockTable(name, schema, probed.batch_rows, read_batch, (open_arrow, (path, name, probed)))


def _file_state(path: Path) -> FileState:
    """Return what changes when a file is replaced or rewritten."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def probe(path: Path, name: str, size: int) -> list[int] | None:
    """Read a file in a child process, and return the rows of its batches; None for a stream.

    Args:
        path: The file.
        name: Its name in messages.
        size: Its size in bytes, which bounds the memory.

    Raises:
        InvalidData: The child process reports damage, crashes, or takes too long or too much memory.
    """
    environment = os.environ | {
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    # -P: the folder of the script must not be searched for modules
    command = [sys.executable, "-P", arrow_probe.__file__, str(path), str(limit_of(size))]
    try:
        child = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS + size / PROBE_BYTES_PER_SECOND,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidData(f"{name}: cannot be read as Arrow IPC: reading it takes too long. Write it again") from error
    if child.returncode == arrow_probe.TOO_LARGE:
        raise InvalidData(
            f"{name}: cannot be read as Arrow IPC: a record batch takes too much memory, got more than "
            f"{limit_of(size):,} bytes from a file of {size:,}. Is it complete? Write it again with smaller batches"
        )
    if child.returncode == arrow_probe.DAMAGED:
        reason = child.stdout.decode(errors="replace").strip()
        raise InvalidData(f"{name}: cannot be read as Arrow IPC: {reason}. Is the file complete?")
    if child.returncode != 0:
        raise InvalidData(
            f"{name}: cannot be read as Arrow IPC: a process that reads it ends with code {child.returncode}. "
            "The file is damaged; write it again"
        )
    batch_rows: list[int] | None = json.loads(child.stdout)
    return batch_rows


def _open(request: OpenRequest) -> Source:
    return request.source(open_arrow(request.path, request.spec))


KIND = DataKind(name="Arrow IPC", suffixes=(".arrow", ".feather"), open=_open)
