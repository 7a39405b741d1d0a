"""Workers end with their parent, and forked copies of an iterator are refused."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument
from softlabels.loading.home import Home
from tests.loading.stores import random_logits, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("home") / "s", random_logits(300), unit_rows=100, chunk_rows=32)


WORKERS = """
import sys, time
import softlabels as sl
from torch.utils.data import DataLoader
from softlabels.loading import Loader
from softlabels.loading.adapters.torch_datasets import LabelDataset, LabelStream, collate

if __name__ == "__main__":
    store, kind = sl.open(sys.argv[1]), sys.argv[2]
    options = {"num_workers": 2, "multiprocessing_context": "forkserver", "collate_fn": collate}
    batches = iter({
        "loader": lambda: Loader(store, batch_size=4, workers=2).stream(),
        "dataset": lambda: DataLoader(LabelDataset(store), batch_size=4, **options),
        "stream": lambda: DataLoader(LabelStream(Loader(store, batch_size=4)), batch_size=None, **options),
    }[kind]())
    next(batches)
    print("started", flush=True)
    time.sleep(600)
"""


def processes_with(marker):
    """The processes that have a variable in their environment."""
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "environ").read_bytes():
                pids.append(int(entry.name))
        except OSError:  # it ended meanwhile
            continue
    return pids


@pytest.mark.parametrize("kind", ["loader", "dataset", "stream"])
def test_no_process_survives_a_parent_that_is_killed(store, tmp_path, kind):
    """Neither workers nor the fork server nor the resource tracker, whichever library started them."""
    marker = uuid.uuid4().hex
    (tmp_path / "program.py").write_text(WORKERS)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", str(store.storage), kind], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"SOFTLABELS_TEST_MARKER": marker},
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    assert len(processes_with(marker.encode())) >= 4, "the program, the fork server and two workers at least"
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 60
    while (orphans := processes_with(marker.encode())) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in orphans:
        os.kill(pid, 9)
    assert not orphans


def in_a_fork(function):
    """Return True if a function returns True in a forked child, which must end within a minute."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if function() else 2
        finally:
            os._exit(status)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_cannot_continue_its_parents_iterator_but_can_make_its_own(store):
    loader = sl.loader(store, batch_size=16, window=2)
    expected = [batch.rows.tolist() for batch in loader.epoch(1)]
    for batches in (loader.epoch(0), loader.stream(), iter(loader)):
        next(batches)

        def refused(batches=batches):
            try:
                next(batches)
            except InvalidArgument as error:
                return "cannot continue in a forked process" in str(error)

        assert in_a_fork(refused)
        assert len(next(batches)) == 16, "the parent goes on"
    assert in_a_fork(lambda: [batch.rows.tolist() for batch in loader.epoch(1)] == expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_object_is_at_home_where_it_was_made():
    home = Home()
    home.check()

    def refused():
        try:
            home.check()
        except InvalidArgument as error:
            return 'multiprocessing_context="forkserver"' in str(error)

    assert in_a_fork(refused)
