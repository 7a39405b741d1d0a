"""All interleavings of two commits of one unit, step by step; a watcher for bytes that change."""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softlabels.store.format import paths
from softlabels.store.storage.posix import PosixFile, PosixStorage
from tests.reliability import world

STEPS = (
    (PosixStorage, "create"),
    (PosixFile, "sync"),
    (PosixFile, "publish"),
    (PosixStorage, "create"),
    (PosixFile, "sync"),
    (PosixStorage, "_link"),
    (PosixStorage, "settle"),
)
"""Steps of a commit as far as another writer could see them."""
HOOKED = tuple(dict.fromkeys(STEPS))
STUCK = 30.0
LABELS = ("topk", "counts")
"""Labels of the stores, in turns."""


@dataclass
class Races:
    """Result: interleavings tried, and those that went wrong."""

    tried: int = 0
    violations: list[str] = field(default_factory=list)


class Turns:
    """Lets one of two threads take a step at a time, in an order given beforehand."""

    def __init__(self, order: tuple[int, ...]) -> None:
        self._order = list(order)
        self._condition = threading.Condition()
        self._done: set[int] = set()
        self.local = threading.local()
        self.after: Callable[[], None] = lambda: None

    def step(self) -> None:
        """Wait until it is this thread's turn."""
        me = getattr(self.local, "number", None)
        if me is None:
            return
        with self._condition:
            if not self._condition.wait_for(lambda: self._next() in {me, None}, STUCK):
                raise TimeoutError("a step whose turn never comes")
            self.after()
            if self._order:
                self._order.pop(0)
            self._condition.notify_all()

    def leave(self) -> None:
        """This thread takes no more steps."""
        with self._condition:
            self._done.add(self.local.number)
            self.after()
            self._condition.notify_all()

    def _next(self) -> int | None:
        while self._order and self._order[0] in self._done:
            self._order.pop(0)
        return self._order[0] if self._order else None


def run(most: int | None = None, *, seed: int = 0, progress: Callable[[int], None] = lambda _: None) -> Races:
    """Try every interleaving of two commits, or ``most`` of them, a seeded choice."""
    result = Races()
    orders = [
        tuple(0 if place in first else 1 for place in range(2 * len(STEPS)))
        for first in itertools.combinations(range(2 * len(STEPS)), len(STEPS))
    ]
    if most is not None:
        orders = random.Random(seed).sample(orders, most)
    base = Path(tempfile.mkdtemp(dir=world.TEMPORARY if world.TEMPORARY.is_dir() else None))
    try:
        for order, labels in zip(orders, itertools.cycle(LABELS)):
            try:
                _race(base / "store", order, labels)
            except Exception as error:  # noqa: BLE001  whatever goes wrong is a violation
                result.violations.append(f"{order}: {type(error).__name__}: {error}")
            shutil.rmtree(base / "store")
            result.tried += 1
            progress(result.tried)
    finally:
        shutil.rmtree(base)
    return result


def _race(root: Path, order: tuple[int, ...], labels: str) -> None:
    store = world.open_store(root, 2, labels=labels)
    world.commit(store, 1)  # makes the directories, so that the steps are those of STEPS
    turns, won, failed = Turns(order), {}, []
    seen: list[bytes] = []

    def watch() -> None:
        path = root / paths.record_path(0)
        if path.exists():
            seen.append(path.read_bytes())

    def write(number: int) -> None:
        turns.local.number = number
        try:
            won[number] = world.commit(store, 0)
        except BaseException as error:  # noqa: BLE001  carried to the main thread
            failed.append(error)
        finally:
            turns.leave()

    turns.after = watch
    with _stepping(turns):
        threads = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
    if sorted(won.values()) != [False, True]:
        raise AssertionError(f"the writers were told {won}")
    if len(set(seen)) != 1:
        raise AssertionError("the record changed after it was there")
    world.judge(root, store.descriptor)


@contextmanager
def _stepping(turns: Turns) -> Iterator[None]:
    """The verbs of a commit wait for their turn."""
    real: dict[tuple[type, str], Any] = {step: getattr(*step) for step in HOOKED}

    def stepping(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            turns.step()
            return function(*arguments)

        return call

    for step, function in real.items():
        setattr(*step, stepping(function))
    try:
        yield
    finally:
        for step, function in real.items():
            setattr(*step, function)
