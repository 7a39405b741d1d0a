"""The position of this process among those that a launcher started.

Launchers tell their processes apart by environment variables: ``RANK`` and ``WORLD_SIZE`` (torchrun, and whoever
copies it), ``SLURM_PROCID`` and ``SLURM_NTASKS`` (srun), ``SLURM_ARRAY_TASK_ID`` and its companions (job arrays). A job
array whose tasks start several processes has as many ranks as tasks times processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from softlabels.errors import InvalidArgument


@dataclass(frozen=True)
class Rank:
    """The position of a process among all processes that share a store.

    Attributes:
        index: Number of the process, from 0.
        count: Number of processes.
        local: Number of the process among those of its machine; None if unknown.
    """

    index: int = 0
    count: int = 1
    local: int | None = None

    def block(self, units: int, offset: int = 0) -> range:
        """Return the units that a process starts with, or those of a process that is so many ranks further.

        Args:
            units: Units of the store.
            offset: Distance in ranks, wrapping around.

        Example:
            >>> Rank(1, 3).block(10), Rank(1, 3).block(10, offset=2)
            (range(3, 6), range(0, 3))
        """
        index = (self.index + offset) % self.count
        return range(index * units // self.count, (index + 1) * units // self.count)

    def device(self) -> str | None:
        """Return the accelerator of this process on a machine with several; None to use the default."""
        import torch

        if self.local is None or not torch.cuda.is_available() or torch.cuda.device_count() < 2:
            return None
        return f"cuda:{self.local % torch.cuda.device_count()}"


ALONE = Rank()
"""The only process."""


def find_rank(environment: Mapping[str, str]) -> Rank | None:
    """Return the rank that a launcher set; None if no launcher did.

    Args:
        environment: Environment variables.

    Raises:
        InvalidArgument: A variable is no number, or the index is not below the count.

    Example:
        >>> find_rank({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"})
        Rank(index=2, count=4, local=0)
        >>> find_rank({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "10"})
        Rank(index=2, count=10, local=None)
        >>> find_rank({}) is None
        True
    """
    inner = _of_variables(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK")
    if inner is None:
        inner = _of_variables(environment, "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return inner
    tasks = _number(environment, "SLURM_ARRAY_TASK_COUNT", 1, minimum=1)
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1, minimum=1)
    # Ids such as 1,5,9 are not evenly spaced. Two tasks may then start with the same units, which claims keep apart.
    task = (_number(environment, "SLURM_ARRAY_TASK_ID", first) - first) // step % tasks
    if inner is None:
        return Rank(task, tasks)
    return Rank(task * inner.count + inner.index, tasks * inner.count, inner.local)


def _of_variables(environment: Mapping[str, str], index_name: str, count_name: str, local_name: str) -> Rank | None:
    if index_name not in environment or count_name not in environment:
        return None
    count = _number(environment, count_name, 1, minimum=1)
    index = _number(environment, index_name, 0)
    if index >= count:
        raise InvalidArgument(
            f"{index_name}: too large, got {index}; expected less than {count_name}, which is {count}"
        )
    local = _number(environment, local_name, 0) if local_name in environment else None
    return Rank(index, count, local)


def _number(environment: Mapping[str, str], name: str, default: int, minimum: int = 0) -> int:
    text = environment.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or int(text) < minimum:
        raise InvalidArgument(f"{name}: invalid, got {text!r}; expected a whole number of at least {minimum}")
    return int(text)
