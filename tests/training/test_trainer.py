"""The training loop: exact resuming, signals, full disks, and directories of several runs."""

import json
import resource
import shutil
import signal

import pytest
import torch

from softlabels.errors import InvalidArgument, ModelFailed, RunCorrupt, StorageFailed, StoreBusy, StoreConflict
from softlabels.models.run_files import temporary_name
from softlabels.training import train_teacher
from softlabels.training.run_claim import OWN_FILES, STARTED_FILE
from tests.warm import run

MODEL = "mlp:width=4,depth=1"


@pytest.fixture
def handlers():
    """Handlers that raise, as Python's for SIGINT and the command line's for SIGTERM do."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_no_signal_is_lost_and_the_message_is_true(tmp_path, root):
    """At random moments of 40 runs, also inside of finalizers, where Python swallows what a handler raises."""
    output = run(root / "tests" / "training" / "interrupted.py", tmp_path, 40, timeout=300)
    turns = [json.loads(line) for line in output.splitlines()]
    assert len(turns) == 40
    assert None not in [turn["message"] for turn in turns]
    for turn in turns:
        if "resume" in turn["message"]:
            assert f"at step {turn['after']:,} of 1,000,000: run the same command again" in turn["message"]
        else:
            assert turn["message"] in {"", "Interrupted at step 0 of 1,000,000: nothing was saved."}
            assert turn["after"] == turn["before"]
    assert max(turn["after"] for turn in turns) > 0


def test_interrupted_and_resumed_equals_never_interrupted_to_the_bit(data, student, tmp_path, weights_of, handlers):
    """Also dropout, which takes torch's random numbers."""
    recipe = {"steps": 120, "batch_size": 8, "seed": 3}
    torch.manual_seed(11)
    uninterrupted = train_teacher(data, student, tmp_path / "uninterrupted", **recipe)
    for stop in (50, 100):

        def interrupt(done, total, *, stop=stop, **figures):
            if done == stop:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(KeyboardInterrupt, match=f"Interrupted at step {stop} of 120: run the same command again"):
            train_teacher(data, student, tmp_path / "parts", progress=interrupt, **recipe)
    torch.manual_seed(12)
    parts = train_teacher(data, student, tmp_path / "parts", **recipe)
    assert weights_of(parts) == weights_of(uninterrupted)
    other = train_teacher(data, student, tmp_path / "other", **(recipe | {"seed": 4}))
    assert weights_of(other) != weights_of(uninterrupted), "the comparison can fail"
    lines = [json.loads(line)["step"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [50, 100, 120]
    assert sorted(entry.name for entry in (tmp_path / "parts").iterdir()) == [
        "metrics.jsonl",
        "model.safetensors",
        "run.json",
    ]


def test_training_leaves_the_random_state_and_the_network_of_the_caller_alone(data, student, tmp_path):
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_teacher(data, student, tmp_path / "run", steps=3)
    assert (torch.rand(3) == expected).all()
    assert all((tensor == before[name]).all() for name, tensor in student.state_dict().items())
    assert student.training


@pytest.fixture
def small_files():
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_a_typed_error_that_leaves_no_file_behind(data, tmp_path, small_files):
    recipe = {"steps": 60, "batch_size": 8}
    for size in (10, 1000, 2000):
        small_files(size)
        with pytest.raises(StorageFailed, match="cannot be written, got 'File too large'"):
            train_teacher(data, MODEL, tmp_path / "run", checkpoint_seconds=0.0, **recipe)
        assert not [entry.name for entry in (tmp_path / "run").iterdir() if entry.name.endswith(".tmp")]
    small_files(resource.RLIM_INFINITY)
    assert train_teacher(data, MODEL, tmp_path / "run", **recipe).run.metrics.steps == 60


def test_a_directory_removed_while_training_is_named(data, tmp_path):
    def remove(done, total, **figures):
        shutil.rmtree(tmp_path / "run")

    with pytest.raises(StorageFailed, match="run: the run directory was removed while it was in use"):
        train_teacher(data, MODEL, tmp_path / "run", steps=50, checkpoint_seconds=0.0, progress=remove)


def test_two_runs_do_not_train_into_one_directory(data, tmp_path):
    attempts = []

    def again(done, total, **figures):
        with pytest.raises(StoreBusy, match="another process trains into this directory"):
            train_teacher(data, MODEL, tmp_path / "run", steps=5)
        attempts.append(done)

    train_teacher(data, MODEL, tmp_path / "run", steps=5, progress=again)
    assert attempts == [0, 5]


def test_a_death_in_any_write_does_not_block_the_same_command(data, tmp_path):
    for name in OWN_FILES:
        out = tmp_path / name
        out.mkdir()
        (out / temporary_name(name)).write_bytes(b"half")
        assert train_teacher(data, MODEL, out, steps=2).run.metrics.steps == 2
        assert not (out / temporary_name(name)).exists()


def stopped(data, out, steps=60):
    """A run that was interrupted at step 50."""

    def stop(done, total, **figures):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_teacher(data, MODEL, out, steps=steps, batch_size=8, checkpoint_seconds=0.0, progress=stop)


def test_a_torn_line_of_metrics_is_dropped(data, tmp_path):
    stopped(data, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "lo')
    train_teacher(data, MODEL, tmp_path, steps=60, batch_size=8)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps in ([50, 60], [60])


def test_an_unfinished_run_is_not_mixed_with_another(data, tmp_path):
    stopped(data, tmp_path)
    with pytest.raises(StoreConflict, match=r"another run that has not finished: recipe\.seed is 0, not 1"):
        train_teacher(data, MODEL, tmp_path, steps=60, batch_size=8, seed=1)
    (tmp_path / STARTED_FILE).write_bytes((tmp_path / STARTED_FILE).read_bytes()[:-20])
    with pytest.raises(RunCorrupt, match=r"started\.json: the run is damaged"):
        train_teacher(data, MODEL, tmp_path, steps=60, batch_size=8)
    (tmp_path / STARTED_FILE).unlink()
    with pytest.raises(RunCorrupt, match="a checkpoint of an unknown run"):
        train_teacher(data, MODEL, tmp_path, steps=60, batch_size=8)


def test_networks_that_cannot_be_trained_are_typed_errors(data, tmp_path):
    class Wrong(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x)[:, :1]

    with pytest.raises(InvalidArgument, match="without trainable parameters"):
        train_teacher(data, torch.nn.Linear(3, 2).requires_grad_(requires_grad=False), tmp_path / "a", steps=1)
    with pytest.raises(ModelFailed, match=r"mat1 and mat2 shapes cannot be multiplied \(64x3 and 5x2\)"):
        train_teacher(data, torch.nn.Linear(5, 2), tmp_path / "b", steps=1)
    with pytest.raises(Exception, match=r"another shape for 64 rows, got \(64, 1\); expected \(64, 2\)"):
        train_teacher(data, Wrong(3, 2), tmp_path / "c", steps=1)
    with pytest.raises(InvalidArgument, match="device: cannot be used, got 'nonsense'"):
        train_teacher(data, MODEL, tmp_path / "d", steps=1, device="nonsense")
