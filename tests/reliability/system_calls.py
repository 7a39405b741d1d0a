"""SIGKILL, or an error, at every system call of a commit, injected by strace into a forked child."""

from __future__ import annotations

import collections
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.reliability import world

CALLS = "%file,%desc"
ERRORS = {
    "openat": ("ENOSPC", "EMFILE", "EIO", "EROFS"),
    "mkdir": ("ENOSPC", "EDQUOT", "EIO"),
    "write": ("ENOSPC", "EDQUOT", "EIO"),
    "fsync": ("ENOSPC", "EDQUOT", "EIO"),
    "rename": ("ENOSPC", "EIO"),
    "link": ("ENOSPC", "EIO", "EPERM"),
    "linkat": ("ENOSPC", "EIO", "EPERM"),
    "unlink": ("EIO",),
    "pread64": ("EIO",),
    "close": ("EIO",),
}
UNITS = 2


@dataclass
class Injected:
    """Result: injections made, those after which everything was right, and those the commit survived."""

    tried: int = 0
    right: int = 0
    committed: int = 0


def available() -> bool:
    """Return True if strace is here and may trace a child."""
    if shutil.which("strace") is None:
        return False
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
    return done.returncode == 0


def calls_of_a_commit() -> dict[str, int]:
    """System calls that touch files or descriptors in one commit, and how often each is made."""
    with _folder() as root:
        trace = root.parent / "trace"
        _commit_under_strace(root, ["-o", str(trace)])
        names = re.findall(r"^(?:\d+ +)?(\w+)\(", trace.read_text(), re.MULTILINE)
    return dict(collections.Counter(names))


def kill_at_each(every: int = 1, progress: Callable[[int], None] = lambda _: None) -> Injected:
    """SIGKILL at each ``every``-th call of a commit, then resume."""
    result = Injected()
    for index, (name, when) in enumerate(_each(calls_of_a_commit())):
        if index % every == 0:
            _inject(result, f"{name}:signal=SIGKILL:when={when}")
            progress(result.tried)
    return result


def fail_at_each(every: int = 1, progress: Callable[[int], None] = lambda _: None) -> Injected:
    """Each errno that a call may give, at each ``every``-th call of a commit, then a retry."""
    result, index = Injected(), 0
    for name, when in _each(calls_of_a_commit()):
        for error in ERRORS.get(name, ()):
            if index % every == 0:
                _inject(result, f"{name}:error={error}:when={when}")
                progress(result.tried)
            index += 1
    return result


def _each(counts: dict[str, int]) -> Iterator[tuple[str, int]]:
    for name, count in counts.items():
        for when in range(1, count + 1):
            yield name, when


def _inject(result: Injected, what: str) -> None:
    with _folder() as root:
        acknowledged = _commit_under_strace(root, ["-o", os.devnull, "-e", f"inject={what}"])
        result.tried += 1
        committed = world.judge(root, world.descriptor(UNITS))
        if acknowledged and 0 not in committed:
            raise AssertionError(f"after {what}: an acknowledged unit is gone")
        result.committed += 0 in committed
        store = world.open_store(root, UNITS)
        for unit in list(store.missing()):
            world.commit(store, unit, extras=True)
        if world.judge(root, store.descriptor) != set(range(UNITS)):
            raise AssertionError(f"after {what}: the store could not be completed")
        result.right += 1


def _commit_under_strace(root: Path, options: list[str]) -> bool:
    """Commit unit 0 in a child that is traced from its first step on; whether it said that it had."""
    read_end, write_end = os.pipe()
    store = world.open_store(root, UNITS)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            os.kill(os.getpid(), signal.SIGSTOP)
            world.commit(store, 0, extras=True)
            os.write(write_end, b"!")
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(pid, os.WUNTRACED)
    command = ["strace", "-f", "-e", f"trace={CALLS}", *options, "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    line = tracer.stderr.readline()  # "strace: Process N attached"
    if "attached" not in line:
        raise AssertionError(f"strace says {line!r}")
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    tracer.wait()
    tracer.stderr.close()
    with os.fdopen(read_end, "rb") as pipe:
        return pipe.read() == b"!"


class _folder:  # noqa: N801  used as a function
    """The path of a store that is not there yet, in a folder that goes away."""

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(dir=world.TEMPORARY if world.TEMPORARY.is_dir() else None))
        return self._path / "store"

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path)
