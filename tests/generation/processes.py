"""Real ``softlabels generate`` processes with a teacher that counts its rows and can be held up."""

import time

import softlabels as sl
from softlabels.store import open_storage
from softlabels.store.format import paths
from softlabels.store.format.snapshot import read_table
from tests.warm import WarmPython

ROWS, UNIT_ROWS, BATCH = 1797, 200, 50
CHECKED = 2 * 16
"""Rows of committed units that a generator predicts again, twice, to be sure that the teacher is the same."""
PATIENCE = 120.0
"""Seconds until a process that does nothing is given up; nothing is decided by how long one takes."""

TEACHER = '''
import os, time
from pathlib import Path
import torch

HERE = Path(__file__).parent

seen = 0

def limit():
    """Read in one step: between a check for the file and its reading it may be removed."""
    try:
        return int((HERE / "hold").read_text())
    except FileNotFoundError:
        return None

def teach(inputs):
    """Ten classes; records its rows, and waits above the limit in the file ``hold`` until that is removed."""
    global seen
    with (HERE / f"asked-{os.getpid()}").open("a") as record:
        record.write(f"{len(inputs)}\\n")
    seen += len(inputs) if len(inputs) > 1 else 0
    while (most := limit()) is not None and seen > most:
        time.sleep(0.01)
    return torch.arange(10.0) + inputs.reshape(len(inputs), -1)[:, :10].float()
'''


def start(place, digits_path, *options, rank=None, environment=None):
    """A process; ``rank`` is a pair of RANK and WORLD_SIZE as torchrun sets them."""
    return WarmPython(
        "-m", "softlabels_cli", "generate", digits_path, "--teacher", "python:counted:teach", "--out", "labels",
        "--unit-rows", UNIT_ROWS, "--batch-size", BATCH, "--no-gate", "--json", *options, cwd=place,
        environment=(environment or {})
        | ({} if rank is None else {"RANK": str(rank[0]), "WORLD_SIZE": str(rank[1])}),
    )  # fmt: skip


def wait_until(condition):
    """Until something is so; the limit only ends a test that would never end."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never comes"
        time.sleep(0.02)


def asked(place, process=None):
    """Rows a teacher (of one process) was asked about, but for the single row that tells its shape."""
    files = place.glob("asked-*") if process is None else [place / f"asked-{process.pid}"]
    return sum(int(line) for file in files if file.exists() for line in file.read_text().split() if line != "1")


def finish(process, code=0):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, out + err
    return out, err


def interrupt(processes, number):
    """Signal twice, as an impatient user does: the second signal does not wait for the batch that the teacher holds.

    Should both arrive as one, the process ends after its grace: a test is slower then, and right.
    """
    for process in processes:
        process.send_signal(number)
    time.sleep(0.2)
    for process in processes:
        process.send_signal(number)


def units(place):
    return len(list(paths.committed_units(open_storage(place / "labels"))))


def content(root):
    """All that a sealed store holds but for the random names of attempts."""
    store = sl.open(root)
    table = read_table(store.storage, store.snapshot, ["unit", "rows", "blake3", "keys"])
    return {name: column.tolist() for name, column in table.items()} | {
        "prior": store.snapshot.prior, "probe": store.snapshot.probe, "fidelity": store.snapshot.fidelity,
    }  # fmt: skip
