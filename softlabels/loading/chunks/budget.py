"""How much memory labels may take where nobody says."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from softlabels.store import Store

SHARE = 8
"""An eighth of what is free: the rest is the student's, its optimizer's and the page cache's."""
LEAST, MOST = 2**28, 2**32
"""Bounds of that share; but never more than half of what is free."""

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
KIB = 1024


def default_memory(processes: int = 1) -> int:
    """Bytes of decoded labels to hold: an eighth of the free memory, shared by so many processes.

    256 MiB at least, where that is no more than half of a process's part of it, and 4 GiB at most.

    Args:
        processes: that read beside one another on this machine.
    """
    each = free_memory() // processes
    return min(MOST, max(LEAST, each // SHARE), each // 2)


def free_memory() -> int:
    """Bytes that this process could still take: what the machine has, its control group and its own limits allow."""
    limits = [_machine()]
    # Control groups, version 2 and 1, as a container sees its own.
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most = _number(CGROUP / limit)
        if most is not None:
            limits.append(most - (_number(CGROUP / used) or 0))
    for kind, taken in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft - (_line(STATUS, taken) or 0))
    return max(0, min(limits))


def _machine() -> int:
    available = _line(MEMINFO, "MemAvailable")
    # Where nobody says: half of all there is.
    return available or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _line(path: Path, name: str) -> int | None:
    """Bytes in one line of a file of the kernel's; None where there is none."""
    try:
        told = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return int(told[name].split()[0]) * KIB
    except (OSError, ValueError, KeyError):
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # none, or "max"
        return None


MOST_THREADS = 4


SMALL_CHUNK = 2**18
"""Bytes as stored from which on chunks are read by several threads."""


def default_threads(stores: Sequence[Store]) -> int:
    """As many as there are cores for this process, at most four; one where chunks are small.

    Small ones are mostly calls from Python, and two threads that take turns at those need longer than one.
    """
    small = sum(store.bytes for store in stores) < SMALL_CHUNK * sum(store.chunks for store in stores)
    return 1 if small else min(MOST_THREADS, cores())


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
