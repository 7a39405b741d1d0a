"""Python processes that start warm: forked by a server that has imported torch, in place of starting an interpreter.

A process of its own is what a test of signals, races and ranks needs; importing torch for each takes two seconds of a
core. Interpreters do not shut down here (``os._exit``): a test of how they do starts one with ``subprocess``.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["pytest", "torch.utils.data", "torch.distributed", "softlabels_cli.main", "softlabels.generation.api"]
# At import, before any test starts a process: the server of this process starts once, with what is set by then.
CONTEXT.set_forkserver_preload(PRELOADED)
TOP = str(Path(__file__).parents[1])


class WarmPython:
    """A process that runs ``python ARGUMENTS``, with the interface of ``subprocess.Popen``.

    Args:
        arguments: Arguments of the interpreter: ``-m MODULE``, ``-c CODE`` or a path, and those of the program.
        cwd: Working directory; modules in it can be imported.
        environment: Variables to set, beside those of the server.
    """

    def __init__(self, *arguments, cwd=TOP, environment=None):
        self._outputs = [Path(tempfile.mkstemp(prefix="softlabels-test-")[1]) for _ in range(2)]
        self._process = CONTEXT.Process(
            target=_run, args=(list(map(str, arguments)), str(cwd), environment or {}, self._outputs)
        )
        self._process.start()

    @property
    def pid(self):
        return self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("warm python", timeout)
        return self._process.exitcode

    def communicate(self, timeout=None):
        """Wait for the end, and return standard output and standard error."""
        self.wait(timeout)
        texts = [path.read_text() if path.exists() else "" for path in self._outputs]
        for path in self._outputs:
            path.unlink(missing_ok=True)
        return tuple(texts)


def run(*arguments, cwd=TOP, timeout=120):
    """Run ``python ARGUMENTS`` to its end, and return its standard output once it has succeeded."""
    process = WarmPython(*arguments, cwd=cwd)
    out, err = process.communicate(timeout)
    assert process.returncode == 0, out + err
    return out


def start_ranks(count, *arguments):
    """Start a process per rank as ``torchrun`` does: variables describe the group, and this process serves its store.

    The port is bound before any rank knows it, so no other process of the machine can take it.

    Returns:
        The processes, rank 0 first.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    group |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    processes = [
        WarmPython(*arguments, environment=group | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    for process in processes:
        process.store = store  # served as long as one of them is of interest
    return processes


def _run(arguments, cwd, environment, outputs):
    for stream, path in zip((1, 2), outputs, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(cwd)
    os.environ.update(environment)
    sys.path[:0] = [cwd]
    try:
        match arguments:
            case ["-m", module, *rest]:
                sys.argv = [module, *rest]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case ["-c", code, *rest]:
                sys.argv = ["-c", *rest]
                exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102  as the interpreter does
            case [path, *rest]:
                sys.argv = [path, *rest]
                sys.path[:0] = [str(Path(path).parent)]
                runpy.run_path(path, run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
