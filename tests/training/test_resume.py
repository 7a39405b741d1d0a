"""Exact resuming: weights and metrics of a run that dies at any step are those of a run that does not."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.errors import RunCorrupt, StorageFailed, StoreConflict
from softlabels.training import train_student, train_teacher
from softlabels.training.checkpoint import CHECKPOINT_FILE, older_checkpoints, saved_step
from tests.training import killed
from tests.warm import WarmPython

FILES = ("model.safetensors", "metrics.jsonl")


def digests(folder):
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


class Death(BaseException):
    """A death in this process, which nothing handles."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labels, and a run that was never interrupted."""
    root = tmp_path_factory.mktemp("resume")
    source = killed.data()
    logits = torch.from_numpy(source.inputs(np.arange(120))[:, :2] * [[-1, 1]]).float()
    with sl.create(root / "labels", heads={"logits": sl.Head(classes=2, encoding="dense:f32")}) as writer:
        writer.append(np.asarray(source.keys()), {"logits": logits})
    killed.train(root, root / "uninterrupted", killed.Dropping(0))
    return root


def test_a_run_that_dies_at_twenty_random_steps_ends_with_the_same_files(folder, tmp_path):
    """Dropout, running statistics, an average of the weights, early stopping and evaluations included."""
    rng, deaths = random.Random(0), 0
    steps = sorted(rng.sample(range(1, 44), 20))
    for step in steps:

        def die(done, total, *, step=step, **figures):
            if done >= step:
                raise Death

        with pytest.raises(Death):
            killed.train(
                folder, tmp_path / "run", killed.Dropping(0), progress=die, checkpoint_seconds=rng.choice([0.0, 60.0])
            )
        deaths += 1
    assert deaths == 20
    killed.train(folder, tmp_path / "run", killed.Dropping(0))
    assert digests(tmp_path / "run") == digests(folder / "uninterrupted")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "lr" in line] == [*range(3, 43, 3), 44]
    assert [line["step"] for line in lines if "held_out.loss" in line] == list(range(4, 45, 4))


def test_kill_9_in_the_midst_of_a_step_loses_nothing(folder, tmp_path, root):
    """Real SIGKILLs, within the second share of a step and between steps."""
    for step in (15, 26):
        process = WarmPython(root / "tests" / "training" / "killed.py", folder, tmp_path / "run", step)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, errors
    assert saved_step(tmp_path / "run") >= 18
    assert not (tmp_path / "run" / "run.json").exists()
    killed.train(folder, tmp_path / "run", killed.Dropping(0))
    assert digests(tmp_path / "run") == digests(folder / "uninterrupted")
    assert not (tmp_path / "run" / CHECKPOINT_FILE).exists()


def stopped(folder, out, step, **options):
    def die(done, total, **figures):
        if done >= step:
            raise Death

    with pytest.raises(Death):
        killed.train(folder, out, killed.Dropping(0), progress=die, **options)


def test_older_checkpoints_are_preserved_and_replace_a_damaged_one(folder, tmp_path):
    stopped(folder, tmp_path / "run", 9, keep_checkpoints=3)
    assert [int(name[11:23]) for name in older_checkpoints(tmp_path / "run")] == [6, 7]
    assert saved_step(tmp_path / "run") == 8
    path = tmp_path / "run" / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        RunCorrupt, match=r"the checkpoint is damaged.*Delete the file to resume from checkpoint-000000000007"
    ):
        killed.train(folder, tmp_path / "run", killed.Dropping(0))
    path.unlink()
    killed.train(folder, tmp_path / "run", killed.Dropping(0), keep_checkpoints=1)
    assert digests(tmp_path / "run") == digests(folder / "uninterrupted")


def test_a_full_disk_during_a_checkpoint_leaves_the_last_one(folder, tmp_path, monkeypatch):
    stopped(folder, tmp_path / "run", 6)
    before = (tmp_path / "run" / CHECKPOINT_FILE).read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        killed.train(folder, tmp_path / "run", killed.Dropping(0))
    monkeypatch.undo()
    assert (tmp_path / "run" / CHECKPOINT_FILE).read_bytes() == before
    killed.train(folder, tmp_path / "run", killed.Dropping(0))
    assert digests(tmp_path / "run") == digests(folder / "uninterrupted")


def test_an_unfinished_run_does_not_resume_on_another_store(folder, tmp_path):
    stopped(folder, tmp_path / "run", 6)
    source = killed.data()
    with sl.create(tmp_path / "labels", heads={"logits": sl.Head(classes=2, encoding="dense:f32")}) as writer:
        writer.append(np.asarray(source.keys()), {"logits": torch.zeros(120, 2)})
    with pytest.raises(StoreConflict, match=r"another run that has not finished: labels\.snapshot is"):
        killed.train(tmp_path, tmp_path / "run", killed.Dropping(0))


def test_the_limit_of_time_ends_a_run_and_is_no_part_of_its_identity(folder, tmp_path):
    short = killed.train(folder, tmp_path / "short", killed.Dropping(0), max_seconds=1e-6)
    assert short.run.metrics.steps == 1
    stopped(folder, tmp_path / "run", 6, max_seconds=1000.0)
    killed.train(folder, tmp_path / "run", killed.Dropping(0))
    assert digests(tmp_path / "run") == digests(folder / "uninterrupted")


def test_early_stopping_returns_the_best_weights(folder, tmp_path):
    """At a rate that makes the held-out loss rise, the run ends, and its weights are those of the lowest loss."""
    options = {"steps": 400, "lr": 0.05, "patience": 3, "eval_every": 2, "ema": None, "accumulation": 1}
    run = killed.train(folder, tmp_path / "run", killed.Dropping(0), checkpoint_seconds=60.0, **options)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["held_out.loss"] for line in lines if "held_out.loss" in line}
    best = min(losses, key=losses.get)
    assert run.run.metrics.steps == best + 6 < 400
    assert run.run.metrics.figures["loss"] == pytest.approx(losses[best], rel=1e-6)


def test_the_average_of_the_weights_is_the_result(folder, tmp_path):
    options = {"steps": 30, "ema": 0.8, "patience": None, "eval_every": None, "accumulation": 1, "schedule": "constant"}
    averaged = killed.train(folder, tmp_path / "ema", killed.Dropping(0), **options)
    plain = killed.train(folder, tmp_path / "plain", killed.Dropping(0), **(options | {"ema": None}))
    fast = killed.train(folder, tmp_path / "fast", killed.Dropping(0), **(options | {"ema": 1e-9}))
    values = [model.module.state_dict()["layers.0.weight"] for model in (averaged, plain, fast)]
    assert not torch.allclose(values[0], values[1])
    assert torch.allclose(values[2], values[1], atol=1e-6)


@pytest.mark.parametrize("options", [{"optimizer": "sgd", "lr": 0.1}, {"precision": "bf16"}, {"schedule": "constant"}])
def test_optimisers_and_precisions_learn_and_resume(folder, tmp_path, options):
    options = {"steps": 60, "accumulation": 1, "ema": None, "checkpoint_seconds": 60.0, **options}
    uninterrupted = killed.train(folder, tmp_path / "a", killed.Dropping(0), **options)
    stopped(folder, tmp_path / "b", 30, **(options | {"checkpoint_seconds": 0.0}))
    killed.train(folder, tmp_path / "b", killed.Dropping(0), **options)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert uninterrupted.run.metrics.agreement > 0.7


def test_shares_of_a_step_are_the_step(data, tmp_path):
    """Without dropout, a step in three shares is the step in one."""
    runs = [
        train_teacher(data, "mlp:width=8,depth=1", tmp_path / str(n), steps=20, batch_size=32, accumulation=n)
        for n in (1, 3)
    ]
    states = [run.module.state_dict() for run in runs]
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-5) for name in states[0])


def test_layers_that_are_computed_again_train_the_same_weights(tmp_path):
    rng = np.random.default_rng(0)
    tokens = sl.sources.TokenSource([rng.integers(0, 20, size=8) for _ in range(40)])
    heads = {"logits": sl.models.OutputHead(classes=20, kind="tokens", shape=(None,))}
    teacher = sl.models.build("gpt:layers=1,width=16,heads=2", input_shape=(), heads=heads, seed=1)
    options = {"steps": 5, "batch_size": 8}
    runs = [
        train_student(
            teacher,
            tokens,
            "gpt:layers=2,width=16,heads=2",
            tmp_path / str(again),
            gradient_checkpointing=again,
            **options,
        )
        for again in (False, True)
    ]
    states = [run.module.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(sl.errors.InvalidArgument, match="no layers to compute again"):
        train_student(teacher, tokens, torch.nn.Linear(2, 2), tmp_path / "x", gradient_checkpointing=True)


def test_fp16_needs_a_gpu(data, tmp_path):
    with pytest.raises(sl.errors.InvalidArgument, match="precision: fp16 needs a GPU, got device cpu"):
        train_teacher(data, "mlp", tmp_path / "run", steps=1, precision="fp16")


def test_evaluation_needs_held_out_rows(tmp_path):
    source = sl.sources.as_source({"x": np.eye(4, dtype=np.float32), "label": np.arange(4) % 2, "split": ["train"] * 4})
    with pytest.raises(sl.errors.InvalidArgument, match="nothing to evaluate on, got no held-out rows"):
        train_teacher(source, "mlp", tmp_path / "run", steps=1, eval_every=1)
    shutil.rmtree(tmp_path / "run")
    assert train_teacher(source, "mlp", tmp_path / "run", steps=1).run.metrics.accuracy is None
