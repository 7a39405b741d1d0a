"""Several processes train as one does, and a death ends them all."""

import json
import time

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.errors import StoreConflict, WorkerDied
from softlabels.models import load_run
from softlabels.training.distributed import Workers, worker_errors
from tests.warm import start_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and labels of a number of rows that no number of processes divides."""
    root = tmp_path_factory.mktemp("distributed")
    rng = np.random.default_rng(0)
    labels = np.arange(211) % 3
    x = (rng.normal(size=(211, 4)) + 2 * (labels[:, None] == np.arange(4))).astype(np.float32)
    split = np.where(np.arange(211) < 173, "train", "test")
    np.savez(root / "data.npz", x=x, label=np.where(np.arange(211) % 5, labels, -1), split=split)
    source = sl.open_source(root / "data.npz")
    with sl.create(root / "labels", heads={"logits": sl.Head(classes=3, encoding="topk:2")}) as writer:
        writer.append(np.asarray(source.keys()), {"logits": torch.from_numpy(x[:, :3])})
    return root


def ranks(folder, out, processes, *options):
    command = ["-m", "softlabels_cli", "train-student", folder / "labels", "--data", folder / "data.npz"]
    command += ["--student", "mlp:width=8,depth=1", "--out", out, "--batch-size", "31", *options]
    return start_ranks(processes, *command)


def test_steps_of_two_and_four_processes_are_those_of_one(folder, tmp_path):
    """173 rows in steps of 31: the last one of an epoch has 18, so shares differ, in each of ten epochs."""
    losses = {}
    for processes in (1, 2, 4):
        options = ["--steps", 60, "--log-every", 1, "--eval-every", 30, "--quiet"]
        out = tmp_path / str(processes)
        ended = [process.communicate(timeout=200) for process in ranks(folder, out, processes, *options)]
        assert [("parameters, 60 steps" in output) for output, _ in ended] == [True] + [False] * (processes - 1), ended
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses[processes] = [line["loss"] for line in lines if "loss" in line]
        assert next(line["held_out.kl"] for line in lines if "held_out.kl" in line) > 0
    assert len(losses[1]) == 60
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
    assert losses[4] == pytest.approx(losses[1], rel=1e-4)
    assert len({load_run(tmp_path / name).run.identity for name in ("1", "2", "4")}) == 1


def test_a_process_that_dies_ends_the_job_which_then_resumes(folder, tmp_path):
    options = ["--steps", "800", "--checkpoint-seconds", "0.2", "--seed", "1", "--quiet"]
    first, second = ranks(folder, tmp_path / "run", 2, *options)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second.kill()
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "rank 0: another process of the run ended, got" in errors
    assert not (tmp_path / "run" / "run.json").exists()
    resumed = ranks(folder, tmp_path / "run", 1, *options)[0]
    output, errors = resumed.communicate(timeout=200)
    assert "800 steps" in output, errors


def test_a_broken_connection_is_a_typed_error():
    message = "rank 3: another process of the run ended, got Connection closed by peer"
    with pytest.raises(WorkerDied, match=message), worker_errors(3):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1\nmore")
    with pytest.raises(StoreConflict), worker_errors(3):
        raise StoreConflict("as it is")


def test_one_process_needs_no_group():
    module = torch.nn.Linear(2, 2)
    module(torch.ones(1, 2)).sum().backward()
    before = module.weight.grad.clone()
    workers = Workers()
    workers.sum_gradients(list(module.parameters()))
    workers.copy_buffers(module)
    assert torch.equal(module.weight.grad, before)
    assert workers.on_first(lambda: 3) == 3
