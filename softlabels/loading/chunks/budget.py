"""Default memory and threads for decoded labels."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from softlabels.store import Store

SHARE = 8
"""An eighth of the free memory. The rest is for the student, its optimizer and the page cache."""
MIN_MEMORY, MAX_MEMORY = 2**28, 2**32
"""Bounds of the default memory in bytes; half of the free memory is a bound too."""
MAX_THREADS = 4
SMALL_CHUNK_BYTES = 2**18
"""Size as stored below which chunks are read by one thread."""

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
KIB = 1024


def default_memory(processes: int = 1) -> int:
    """Return the bytes of decoded labels to hold: an eighth of the free memory, divided by the processes.

    At least 256 MiB, unless that is more than half of the memory of a process, and at most 4 GiB.

    Args:
        processes: Number of processes on this machine that read at the same time.
    """
    free = free_memory() // processes
    return min(MAX_MEMORY, max(MIN_MEMORY, free // SHARE), free // 2)


def free_memory() -> int:
    """Return the bytes that this process can still take by the machine, its control group and its own limits."""
    limits = [_machine_memory()]
    # Control groups of version 2 and 1, as a container sees its own.
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        maximum = _read_number(CGROUP / limit)
        if maximum is not None:
            limits.append(maximum - (_read_number(CGROUP / used) or 0))
    for kind, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft - (_read_line(STATUS, used) or 0))
    return max(0, min(limits))


def _machine_memory() -> int:
    available = _read_line(MEMINFO, "MemAvailable")
    # Half of all memory if the kernel does not report what is available.
    return available or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _read_line(path: Path, name: str) -> int | None:
    """Return the bytes in one line of a file of the kernel; None if there is no such line."""
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return int(lines[name].split()[0]) * KIB
    except (OSError, ValueError, KeyError):
        return None


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def default_threads(stores: Sequence[Store], workers: int = 0) -> int:
    """Return the number of threads that read: one per core, at most four; one in worker processes or for small chunks.

    Behind a network, as many as the storage takes requests: each chunk is a request that its thread waits for. Worker
    processes share that number. Small chunks are mostly calls from Python. Two threads that take turns at those need
    longer than one.

    Args:
        stores: Stores to read from.
        workers: Number of worker processes; 0: the threads are those of this process.
    """
    requests = max((store.storage.read_threads for store in stores), default=1)
    if requests > 1:
        return max(1, requests // max(1, workers))
    if workers:
        return 1
    small = sum(store.bytes for store in stores) < SMALL_CHUNK_BYTES * sum(store.chunks for store in stores)
    return 1 if small else min(MAX_THREADS, cores())


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
