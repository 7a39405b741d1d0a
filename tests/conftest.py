"""Settings and fixtures of all tests: one torch thread, derandomised Hypothesis, and the real digits."""

import fcntl
import gc
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests import warm  # noqa: F401  the server of processes starts with what this sets

ROOT = Path(__file__).parents[1]

# Files are synced tens of thousands of times, for which the tests of stores wait on a disk half of their time.
MEMORY, MIN_FREE_BYTES = Path("/dev/shm"), 2**32  # noqa: S108  TMPDIR names another place
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MIN_FREE_BYTES:
    os.environ["TMPDIR"], tempfile.tempdir = str(MEMORY), None

# Two cores are shared by everything, and one thread makes sums reproducible. The variable is for the processes that
# tests and pytest-xdist start: threads of several processes that wait for each other take most of two cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
settings.register_profile("softlabels", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("softlabels")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect tests without going through thousands of them again and again to collect garbage, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure():
    """Let go of what was collected, or extension modules report it as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _brief_throughput():
    """Measure the throughput of a model for 20 milliseconds: no test depends on how exact it is."""
    from softlabels.models import cost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "THROUGHPUT_SECONDS", 0.02)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def digits_path() -> Path:
    """The bundled digits as a file."""
    return ROOT / "data" / "digits.parquet"


@pytest.fixture(scope="session")
def digits(digits_path):
    """The bundled digits as a source."""
    from softlabels.sources import open_source

    return open_source(digits_path)


@pytest.fixture(scope="session")
def teacher():
    """A small network with fixed random weights; what it says is as good as any for storing."""
    from softlabels import models

    return models.build(
        "mlp:width=32,depth=1",
        input_shape=(8, 8),
        heads={"logits": models.OutputHead(classes=10)},
        seed=7,
        statistics=models.InputStatistics(np.array(5.0), np.array(6.0)),
    )


@pytest.fixture(scope="session")
def dense_logits(teacher, digits):
    """Its logits for all digits, (1797, 10) float32: the oracle."""
    return teacher.predict(digits.inputs(np.arange(len(digits))))["logits"].numpy()


@pytest.fixture(scope="session")
def sealed(tmp_path_factory, teacher, digits):
    """A sealed store of all digits in several units and chunks; read only."""
    from softlabels.generation import generate

    out = tmp_path_factory.mktemp("stores") / "labels"
    generate(digits, teacher=teacher, out=out, encoding="topk:4", temperatures=(1.0, 4.0), unit_rows=400)
    return out


@pytest.fixture(scope="session")
def demo_teacher(tmp_path_factory):
    """The finished run of the demo's teacher, trained once by its own command, whatever number of processes test."""
    from softlabels_cli.demo import story
    from softlabels_cli.main import cli

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    command = story(base / "demo", 1)[0][1]
    with (base / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cli.main([*command, "--quiet"], "softlabels", standalone_mode=False)  # a finished run is reused
    return base / "demo" / "teacher"
