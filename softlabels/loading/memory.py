"""How much memory labels may take where nobody says."""

from __future__ import annotations

import os
import resource
from pathlib import Path

SHARE = 8
"""An eighth of what is free: the rest is the student's, its optimizer's and the page cache's."""
LEAST, MOST = 2**28, 2**32

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
KIB = 1024


def default_memory(processes: int = 1) -> int:
    """Bytes of decoded labels to hold: an eighth of the free memory, shared by so many processes; 256 MiB to 4 GiB.

    Args:
        processes: that read beside one another on this machine.
    """
    return min(MOST, max(LEAST, free_memory() // SHARE // processes))


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
    limits += [soft for soft, _ in map(resource.getrlimit, (resource.RLIMIT_AS, resource.RLIMIT_DATA)) if soft > 0]
    return max(0, min(limits))


def _machine() -> int:
    try:
        told = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        return int(told["MemAvailable"].split()[0]) * KIB
    except (OSError, ValueError, KeyError):  # not Linux: half of all there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # none, or "max"
        return None
