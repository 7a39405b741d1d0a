"""Planted bugs: each experiment must be able to fail, and each classic mistake must be caught by one of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from softlabels.store.format import paths
from softlabels.store.format.descriptor import Descriptor
from softlabels.store.format.record import Record, read_record
from softlabels.store.maintenance import repair as repair_module
from softlabels.store.maintenance.report import Problem
from softlabels.store.storage.posix import PosixFile, PosixStorage
from softlabels.store.storage.storage import Storage
from tests.reliability import interleavings, kills, power_cuts, repairs, system_calls

LAYERS: dict[str, Callable[[], None]] = {}


def layer(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a quick version of an experiment, which raises where it finds a violation."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        LAYERS[name] = function
        return function

    return register


@layer("interleavings")
def _interleavings() -> None:
    result = interleavings.run(40)
    if result.violations:
        raise AssertionError(result.violations[0])


@layer("power cuts")
def _power_cuts() -> None:
    result = power_cuts.run(600, resume_every=10**9, stop_early=True)
    if result.violations:
        raise AssertionError(result.violations[0])


@layer("SIGKILL at a system call")
def _system_calls() -> None:
    system_calls.kill_at_each()


@layer("random kills")
def _kills() -> None:
    result = kills.run(60)
    if result.lost or result.twice or result.changed:
        raise AssertionError(f"{result.lost} lost, {result.twice} twice, {result.changed} changed")


@layer("repair beside writers")
def _repairs() -> None:
    for seed in range(4):
        result = repairs.run(2, seed=seed)
        if result.violations:
            raise AssertionError(f"{result.wrong} set aside, {result.lost} lost, {result.unsound} not sound")


def _unsynced_data(file: PosixFile) -> None:
    file._file.close()


def _unsynced_directory(storage: PosixStorage, directory: str) -> None:
    pass


def _record_before_shard() -> Iterator[tuple[tuple[Any, str], Any]]:
    """Give the shard its name only after the record is there."""
    real_publish, real_put = PosixFile.publish, PosixStorage.put_if_absent
    waiting: list[tuple[PosixFile, str]] = []

    def publish(file: PosixFile, name: str) -> None:
        waiting.append((file, name))

    def put(storage: PosixStorage, name: str, data: bytes) -> bool:
        won = real_put(storage, name, data)
        if name.endswith(".json"):
            while waiting:
                real_publish(*waiting.pop())
        return won

    yield (PosixFile, "publish"), publish
    yield (PosixStorage, "put_if_absent"), put


def _renamed_record(storage: PosixStorage, path: str, name: str) -> bool:
    os.rename(path, storage._path(name))  # noqa: PTH104  as somebody would have written it
    Path(path).touch()
    return True


def _record_in_place(storage: PosixStorage, name: str, data: bytes) -> bool:
    storage._make_directory(os.path.dirname(name))  # noqa: PTH120  a name, not a path
    try:
        descriptor = os.open(storage._path(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    for start in range(0, len(data), 256):
        os.write(descriptor, data[start : start + 256])
    os.fsync(descriptor)
    os.close(descriptor)
    storage.settle(os.path.dirname(name))  # noqa: PTH120  a name, not a path
    return True


def _existing_directory(storage: PosixStorage, directory: str) -> None:
    if not Path(storage._path(directory)).is_dir():
        _MAKE_DIRECTORY(storage, directory)


def _unsettled_units(storage: PosixStorage) -> list[int]:
    return list(paths.committed_units(storage))


def _trusted_report(storage: Storage, descriptor: Descriptor, unit: int, *, deep: bool) -> tuple[Record, Problem]:
    """Take a unit for damaged because a report has said so."""
    del deep
    return read_record(storage, unit, descriptor), Problem(unit, "", "as the report says", "repair")


def _all_shards_moved(storage: Storage, descriptor: Descriptor, unit: int) -> bool:
    """Move all shards of a unit, those that no record names too."""
    was_moved = _MOVE_UNIT(storage, descriptor, unit)
    if was_moved:
        directory = paths.shard_path(unit, "", descriptor.shard_format).rpartition("/")[0]
        for name in storage.list_names(directory):
            if name.startswith(f"{unit:08d}-"):
                repair_module._move(storage, f"{directory}/{name}")
    return was_moved


_MAKE_DIRECTORY = PosixStorage._make_directory
_MOVE_UNIT = repair_module._move_unit

BUGS: dict[str, tuple[str, Callable[[], Iterator[tuple[tuple[Any, str], Any]]]]] = {
    "data not synced": ("power cuts", lambda: iter([((PosixFile, "sync"), _unsynced_data)])),
    "directory not synced": ("power cuts", lambda: iter([((PosixStorage, "settle"), _unsynced_directory)])),
    "existing directory taken for durable": (
        "power cuts",
        lambda: iter([((PosixStorage, "_make_directory"), _existing_directory)]),
    ),
    "existing record taken for durable": ("power cuts", lambda: iter([((paths, "durable_units"), _unsettled_units)])),
    "record before its shard": ("SIGKILL at a system call", _record_before_shard),
    "record renamed, not linked": ("interleavings", lambda: iter([((PosixStorage, "_link"), _renamed_record)])),
    "record written in place": (
        "SIGKILL at a system call",
        lambda: iter([((PosixStorage, "put_if_absent"), _record_in_place)]),
    ),
    "old report trusted": ("repair beside writers", lambda: iter([((repair_module, "unit_problem"), _trusted_report)])),
    "every shard of a unit moved": (
        "repair beside writers",
        lambda: iter([((repair_module, "_move_unit"), _all_shards_moved)]),
    ),
}
"""Each bug, the layer that is to catch it, and the verbs it puts in place of ours."""


@contextlib.contextmanager
def planted(bug: str) -> Iterator[None]:
    """The store with a bug in it."""
    replaced = dict(BUGS[bug][1]())
    real = {verb: getattr(*verb) for verb in replaced}
    for verb, function in replaced.items():
        setattr(*verb, function)
    try:
        yield
    finally:
        for verb, function in real.items():
            setattr(*verb, function)


def caught_by(bug: str, name: str) -> bool:
    """Return True if a layer catches a bug."""
    with planted(bug):
        try:
            LAYERS[name]()
        except Exception:  # noqa: BLE001  an error of any kind is a catch
            return True
    return False
