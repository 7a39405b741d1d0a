"""The Ray engine: actors on a cluster hold the teacher and label units; this process shows their progress.

Ray places the actors, restarts those that die, on another node if theirs is gone, and lets its autoscaler provide
machines. What an actor does is what any other process does: it labels the units of its rank and takes over others. So a
killed actor costs the unit it was working on, and a run of which nodes never come back still ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from softlabels.errors import InvalidArgument, SoftLabelsError, WorkerDied
from softlabels.generation.engine import Engine, Labelled, ProgressReport, Work
from softlabels.generation.labelling import label_missing
from softlabels.generation.payload import Payload
from softlabels.generation.ranks import Rank
from softlabels.generation.tally import Tally, UnitProgress

POLL_SECONDS = 0.5
"""Time between two looks at the reports of the actors."""

IDLE_SECONDS = 2.0
"""Time after which an actor that found no free unit looks again, as long as units are missing."""


class Reports:
    """An actor that collects the reports of all others, on the node of the process that shows them."""

    def __init__(self) -> None:
        self._reports: list[UnitProgress] = []

    def add(self, report: UnitProgress) -> None:
        """Collect a report."""
        self._reports.append(report)

    def take(self) -> list[UnitProgress]:
        """Return the reports since the last call, in order."""
        reports, self._reports = self._reports, []
        return reports


class Labeller:
    """An actor that labels. It is made without arguments, so that Ray needs no object of a lost node to restart it."""

    def __init__(self) -> None:
        self._work: Work | None = None

    def label(self, payload: Payload, rank: Rank, reports: Any) -> None:
        """Label units until none is free.

        Args:
            payload: The work. Its teacher is loaded at the first call.
            rank: Position of the actor.
            reports: Handle of the actor that collects reports.
        """
        if self._work is None:
            self._work = payload.unpack(rank)
        label_missing(self._work, reports.add.remote)


def run(work: Work, progress: ProgressReport | None = None) -> Labelled:
    """Label the missing units by actors on a Ray cluster.

    The cluster is the one this process is connected to, or that ``RAY_ADDRESS`` names, or a new one on this machine.

    Args:
        work: Data, teacher and store.
        progress: Callback that receives the rows done.

    Raises:
        InvalidArgument: Ray is not installed, or data or teacher cannot be pickled.
        WorkerDied: An actor failed in a way that Ray does not repair.
        SoftLabelsError: An actor raised it.
    """
    try:
        import ray
    except ImportError as error:
        raise InvalidArgument(
            "engine ray: Ray is not installed; expected the extra cluster. Run pip install 'softlabels[cluster]'"
        ) from error
    tally = Tally(work, progress)
    missing = sum(1 for _ in work.store.missing())
    if not missing:
        return tally.labelled
    # Ray prints what happens to its actors on standard output, which belongs to the result.
    with redirect_stdout(sys.stderr), _connected(ray):
        count = min(work.settings.processes or _default_count(ray, work.settings.device), missing)
        _label(ray, work, count, tally)
    return tally.labelled


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Connect to a cluster, unless this process is connected already, and disconnect in the end."""
    if ray.is_initialized():
        yield
        return
    ray.init(log_to_driver=False, logging_level="warning")
    try:
        yield
    finally:
        ray.shutdown()


def _label(ray: Any, work: Work, count: int, tally: Tally) -> None:
    """Run the actors until every unit is committed."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    payload = ray.put(Payload.pack(work, ray.cloudpickle.dumps))
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reports = ray.remote(Reports).options(num_cpus=0, scheduling_strategy=this_node, max_restarts=-1).remote()
    # An actor that dies is started again, and its call is made again, as often as that takes.
    labeller = ray.remote(Labeller).options(
        num_cpus=1, num_gpus=_gpus(ray, work.settings.device), max_restarts=-1, max_task_retries=-1
    )
    actors = {Rank(index, count): labeller.remote() for index in range(count)}
    try:
        _watch(ray, work, payload, actors, reports, tally)
    finally:
        for report in _take(ray, reports):
            tally.add(report)
        for actor in (*actors.values(), reports):
            ray.kill(actor)


def _watch(ray: Any, work: Work, payload: Any, actors: Mapping[Rank, Any], reports: Any, tally: Tally) -> None:
    """Show the progress of the actors, and let each look for units again while some are missing."""
    calls = {actor.label.remote(payload, rank, reports): rank for rank, actor in actors.items()}
    idle: dict[Rank, float] = {}
    while calls:
        done, _ = ray.wait(list(calls), timeout=POLL_SECONDS)
        for report in _take(ray, reports):
            tally.add(report)
        for call in done:
            _raise_error_of(ray, call)
            idle[calls.pop(call)] = time.monotonic()
        if not idle:
            continue
        # Actors whose node is gone for good do not hold up a store that the others have completed.
        if next(iter(work.store.missing()), None) is None:
            return
        for rank, since in list(idle.items()):
            if time.monotonic() - since >= IDLE_SECONDS or not calls:
                del idle[rank]
                calls[actors[rank].label.remote(payload, rank, reports)] = rank


def _take(ray: Any, reports: Any) -> list[UnitProgress]:
    """Return the new reports; none if the actor that collects them is being started again."""
    try:
        taken: list[UnitProgress] = ray.get(reports.take.remote())
    except ray.exceptions.RayActorError:
        return []
    return taken


def _raise_error_of(ray: Any, call: Any) -> None:
    """Raise the error of a call that has ended, if it has one."""
    try:
        ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SoftLabelsError):
            error.cause.add_note(str(error))
            raise error.cause from None
        raise WorkerDied(f"generate: an actor raised {type(error.cause).__name__}: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise WorkerDied(f"generate: an actor failed, got {error}; expected Ray to start it again") from error


def _default_count(ray: Any, device: str | None) -> int:
    """Return one process per GPU of the cluster; without GPUs, or on another device, one per node."""
    gpus = int(ray.cluster_resources().get("GPU", 0)) if _gpus(ray, device) else 0
    return gpus or sum(1 for node in ray.nodes() if node["Alive"])


def _gpus(ray: Any, device: str | None) -> int:
    return int(ray.cluster_resources().get("GPU", 0) >= 1 and (device is None or device.startswith("cuda")))


ENGINE = Engine(name="ray", summary="Actors on a Ray cluster (extra cluster).", run=run)
