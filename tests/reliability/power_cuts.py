"""Power cuts, replayed: the effects of real commits are logged; any that was not synced may be missing afterwards.

The model is harsher than any file system: an entry of a directory is durable once the directory was synced after it,
the bytes of a file once the file was; until then each entry may be there or not, on its own, and a file may be empty,
half or whole. A rename is an entry added and an entry removed, kept or lost apart.

The process may also die first, before any of the calls by which it changes the file system, and another one continues.
What the dead process had not synced may be missing after the cut, and the next process cannot know.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import softlabels as sl
from softlabels.store import verify
from tests.reliability import world

UNITS = 2
KINDS = (("zarr", "topk"), ("parquet", "counts"), ("zarr", "counts"), ("parquet", "topk"))
"""Formats of shards, and labels: those of counts have a codebook, which must be durable before the descriptor."""
LAST_TREES = 8
"""Trees to try at least for a cut after the last event."""


Kind = tuple[str, str]


@dataclass
class Event:
    """One step: an entry added or removed, bytes synced, a directory synced, or something acknowledged."""

    kind: str
    path: str = ""
    file: int = 0
    data: bytes = b""
    what: str = ""


@dataclass
class Cuts:
    """States tried, and how many of them were different."""

    states: int = 0
    different: int = 0
    violations: list[str] = field(default_factory=list)


class Killed(BaseException):
    """The process is dead: none of its calls has an effect any more."""


class Log:
    """Effects below ``root``, in order; each method logs one call that has returned."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self._paths: dict[int, str] = {}
        self._files: dict[str, int] = {}

    def open(self, descriptor: int, path: Any, flags: int, *_: Any) -> None:
        """A file was opened, and perhaps made."""
        if name := self._name(path):
            self._paths[descriptor] = name
            if flags & os.O_CREAT:
                self._files[name] = len(self.events)
                self.events.append(Event("add", name, self._files[name]))

    def fsync(self, _: None, descriptor: int) -> None:
        """A file or directory was synced."""
        if name := self._paths.get(descriptor, ""):
            path = self.root / name
            if path.is_dir():
                self.events.append(Event("sync directory", name))
            else:
                self.events.append(Event("sync", name, self._files[name], path.read_bytes()))

    def rename(self, _: None, source: Any, target: Any) -> None:
        """A file got another name."""
        self.link(None, source, target)
        self.unlink(None, source)

    def link(self, _: None, source: Any, target: Any) -> None:
        """A file got one more name."""
        self._files[self._name(target)] = self._files[self._name(source)]
        self.events.append(Event("add", self._name(target), self._files[self._name(target)]))

    def unlink(self, _: None, path: Any) -> None:
        """A name went."""
        self.events.append(Event("remove", self._name(path)))

    def mkdir(self, _: None, path: Any, *__: Any) -> None:
        """A directory was made."""
        if name := self._name(path):
            self.events.append(Event("add directory", name))

    def _name(self, path: Any) -> str:
        """A path within the root; empty for one outside."""
        text = os.fspath(path)
        return os.path.relpath(text, self.root) if str(text).startswith(str(self.root)) else ""


WATCHED = ("open", "fsync", "rename", "link", "unlink", "mkdir")


@contextmanager
def watching(log: Log, *, kill_at: int | None = None) -> Iterator[None]:
    """Log every call by which a file system changes.

    Args:
        log: Log of the calls.
        kill_at: Number of the call before which the process dies; None if it lives.
    """
    real = {name: getattr(os, name) for name in WATCHED}
    calls = itertools.count()
    is_dead = False

    def logging(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal is_dead
            changes = name != "open" or arguments[1] & os.O_CREAT
            if is_dead or (changes and next(calls) == kill_at):
                is_dead = True
                raise Killed
            result = real[name](*arguments, **options)
            getattr(log, name)(result, *arguments)
            return result

        return call

    for name in WATCHED:
        setattr(os, name, logging(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def record(folder: Path, kind: Kind) -> list[Event]:
    """Return the effects of making a store, committing its units and sealing it, and what was promised when."""
    folder.mkdir()
    log = Log(folder)
    with watching(log):
        _work(folder / "store", kind, log)
    return log.events


def record_killed(folder: Path, kind: Kind, kill_at: int) -> tuple[list[Event], int] | None:
    """Return the effects of a process that dies and of one that continues, and where the second begins.

    Args:
        folder: Directory to work in; must not exist.
        kind: Format of the shards, and labels.
        kill_at: Number of the call before which the first process dies.

    Returns:
        None if the first process ends before that call.
    """
    folder.mkdir()
    log = Log(folder)
    try:
        with watching(log, kill_at=kill_at):
            _work(folder / "store", kind, log)
    except Killed:
        pass
    else:
        return None
    begin = len(log.events)
    with watching(log):
        _work(folder / "store", kind, log)
    return log.events, begin


def _work(root: Path, kind: Kind, log: Log) -> None:
    """Make or continue a store and seal it; log a promise when a unit is there as far as the process can see."""
    store = world.open_store(root, UNITS, *kind)
    missing = set(store.missing())
    log.events += [Event("promised", what=str(unit)) for unit in sorted(set(range(UNITS)) - missing)]
    for unit in sorted(missing):
        world.commit(store, unit, extras=unit == 0)
        log.events.append(Event("promised", what=str(unit)))
    sl.seal(root)
    log.events.append(Event("promised", what="sealed"))


def states(
    events: list[Event], rng: random.Random, budget: int, begin: int = 0
) -> Iterator[tuple[dict[str, bytes | None], set[str]]]:
    """Yield directory trees (None for a directory) that a cut may leave, and what was promised by then.

    Args:
        events: Effects in their order.
        rng: Source of the choice if there are too many trees.
        budget: Number of trees to yield, about, and a few more for a cut after the last event.
        begin: Number of the first event after which the power may fail.
    """
    moments = range(begin, len(events) + 1)
    trees = max(1, budget // len(moments))
    for cut in moments if budget >= len(moments) else sorted({*rng.sample(moments, max(1, budget)), len(events)}):
        if cut == len(events):
            trees = max(trees, LAST_TREES)  # everything was promised
        prefix = events[:cut]
        promised = {event.what for event in prefix if event.kind == "promised"}
        durable, loose = _split(prefix)
        contents = _contents(prefix, events)
        files = sorted({event.file for event in prefix if event.kind == "add"})
        unsynced = [file for file in files if file not in {e.file for e in prefix if e.kind == "sync"}]
        choices = [range(2)] * len(loose) + [range(3)] * len(unsynced)
        total = 2 ** len(loose) * 3 ** len(unsynced)
        picks = (
            itertools.product(*choices)
            if total <= trees
            else (tuple(rng.choice(choice) for choice in choices) for _ in range(trees))
        )
        for pick in picks:
            present = {index for index, keep in zip(loose, pick, strict=False) if keep}
            cuts = dict(zip(unsynced, pick[len(loose) :], strict=True))
            yield _tree(prefix, durable | present, contents, cuts), promised


def _split(prefix: list[Event]) -> tuple[set[int], list[int]]:
    """Numbers of the entries whose directory was synced after them, and of those where it was not."""
    durable, loose = set(), []
    for index, event in enumerate(prefix):
        if event.kind in {"add", "remove", "add directory"}:
            later = (e for e in prefix[index + 1 :] if e.kind == "sync directory")
            if any(Path(e.path) == Path(event.path).parent for e in later):
                durable.add(index)
            else:
                loose.append(index)
    return durable, loose


def _contents(prefix: list[Event], events: list[Event]) -> dict[int, bytes]:
    """Bytes of each file: as synced by now, else as they will be when they are."""
    result = {event.file: event.data for event in reversed(events) if event.kind == "sync"}
    return result | {event.file: event.data for event in prefix if event.kind == "sync"}


def _tree(
    prefix: list[Event], present: set[int], contents: dict[int, bytes], cuts: dict[int, int]
) -> dict[str, bytes | None]:
    tree: dict[str, bytes | None] = {}
    for index, event in enumerate(prefix):
        if index not in present:
            continue
        if event.kind == "add directory":
            tree[event.path] = None
        elif event.kind == "add":
            data = contents.get(event.file, b"")
            tree[event.path] = data[: len(data) * cuts[event.file] // 2] if event.file in cuts else data
        else:
            tree.pop(event.path, None)
    # What lies in a directory that is lost is lost with it.
    return {path: data for path, data in tree.items() if _has_parents(path, tree)}


def _has_parents(path: str, tree: dict[str, bytes | None]) -> bool:
    parent = str(Path(path).parent)
    return parent == "." or (parent in tree and _has_parents(parent, tree))


def run(
    most: int,
    *,
    seed: int = 0,
    resume_every: int = 97,
    stop_early: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Cuts:
    """Try about ``most`` states, of every kind, and complete the store after every ``resume_every``-th.

    Args:
        most: Number of states.
        seed: Seed of the choice of states.
        resume_every: Different states from one that is completed to the next.
        stop_early: If True, stop at the first violation.
        progress: Called with the number of states now and then.
    """
    result, rng, seen = Cuts(), random.Random(seed), set()
    base = Path(tempfile.mkdtemp(dir=world.TEMPORARY if world.TEMPORARY.is_dir() else None))
    try:
        for kind, events, begin, budget in _histories(base, most):
            for tree, promised in states(events, rng, budget, begin):
                result.states += 1
                mark = (kind, frozenset(tree.items()), frozenset(promised))
                if mark not in seen:
                    seen.add(mark)
                    result.different += 1
                    _try(base / "cut", tree, promised, kind, result, resume=result.different % resume_every == 0)
                if result.states % 100 == 0:
                    progress(result.states)
                if stop_early and result.violations:
                    return result
    finally:
        shutil.rmtree(base)
    return result


def _histories(base: Path, budget: int) -> Iterator[tuple[Kind, list[Event], int, int]]:
    """Yield kind, events, first cut and states to try: half for one process, half for one that dies and another."""
    for kind in KINDS:
        yield kind, record(base / "-".join(kind), kind), 0, budget // (2 * len(KINDS))
    killed = [history for number in range(len(KINDS)) for history in _killed(base, number)]
    for kind, events, begin in killed:
        yield kind, events, begin, budget // (2 * len(killed))


def _killed(base: Path, number: int) -> Iterator[tuple[Kind, list[Event], int]]:
    """Yield kind, events and first cut of two processes; the kinds share the moments at which the first one dies."""
    for kill_at in itertools.count(number, len(KINDS)):
        history = record_killed(base / f"killed-{kill_at}", KINDS[number], kill_at)
        if history is None:
            return
        yield KINDS[number], *history


def _try(
    folder: Path, tree: dict[str, bytes | None], promised: set[str], kind: Kind, result: Cuts, *, resume: bool
) -> None:
    folder.mkdir()
    try:
        for path, data in sorted(tree.items()):
            if data is None:
                (folder / path).mkdir()
            else:
                (folder / path).write_bytes(data)
        _judge(folder / "store", promised, kind, resume=resume)
    except Exception as error:  # noqa: BLE001  whatever goes wrong is a violation
        result.violations.append(f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder)


def _judge(root: Path, promised: set[str], kind: Kind, *, resume: bool) -> None:
    """Raise unless all that was promised is there, all that is there is right, and the store can be completed."""
    units = {int(what) for what in promised if what.isdecimal()}
    store = world.descriptor(UNITS, *kind)
    if (root / "softlabels.json").exists():
        if not units <= world.judge(root, store):
            raise AssertionError(f"units {units} were promised")
    elif units:
        raise AssertionError(f"units {units} were promised, and the store is gone")
    if "sealed" in promised and sl.open(root).rows != UNITS * world.UNIT_ROWS:
        raise AssertionError("the sealed snapshot is gone")
    if resume:
        writer = world.open_store(root, UNITS, *kind)
        for unit in list(writer.missing()):
            world.commit(writer, unit, extras=unit == 0)
        sl.seal(root)
        if not verify(root, deep=True).ok or world.judge(root, store) != set(range(UNITS)):
            raise AssertionError("the store could not be completed")
