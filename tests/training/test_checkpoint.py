"""Checkpoints: exact, and refused if a bit differs or the run is another."""

import os

import pytest
import torch

from softlabels.errors import RunCorrupt, StoreConflict
from softlabels.models.digest import state_of
from softlabels.training.checkpoint import CHECKPOINT_FILE, read_checkpoint, saved_step, write_checkpoint
from softlabels.training.optimization import MixedPrecision, WeightAverage
from softlabels.training.recipe import Recipe
from softlabels.training.state import TrainingState
from softlabels.training.stopping import EarlyStopping

IDENTITY = "a" * 64


def trained(seed):
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    module[0].requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(parameter for parameter in module.parameters() if parameter.requires_grad)
    module(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    recipe = Recipe(ema=0.9, patience=2)
    state = TrainingState(
        module, optimizer, MixedPrecision(recipe, torch.device("cpu")), WeightAverage(module, 0.9), EarlyStopping(2),
        step=7, seconds=1.5,
    )  # fmt: skip
    state.average.update(module, 7)
    state.stopping.add(7, float(seed), state_of(module))
    return state


def content(state):
    return {name: tensor.tolist() for name, tensor in state.tensors().items()}, state.numbers()


def test_everything_comes_back(tmp_path):
    with torch.random.fork_rng():
        first, other = trained(0), trained(1)
        write_checkpoint(tmp_path, first, identity=IDENTITY)
        assert content(other) != content(first)
        assert read_checkpoint(tmp_path, other, identity=IDENTITY) == 7
        assert content(other) == content(first)


def test_a_flipped_bit_is_refused(tmp_path):
    """In every byte of the header, and in every seventh of the tensors."""
    with torch.random.fork_rng():
        state = trained(0)
        write_checkpoint(tmp_path, state, identity=IDENTITY)
        original = (tmp_path / CHECKPOINT_FILE).read_bytes()
        header = 8 + int.from_bytes(original[:8], "little")
        for position in [*range(header), *range(header, len(original), 7)]:
            data = bytearray(original)
            data[position] ^= 1 << position % 8
            (tmp_path / CHECKPOINT_FILE).write_bytes(data)
            with pytest.raises(RunCorrupt, match=CHECKPOINT_FILE):
                read_checkpoint(tmp_path, state, identity=IDENTITY)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    with torch.random.fork_rng():
        state = trained(0)
        assert read_checkpoint(tmp_path, state, identity=IDENTITY) == 0
        write_checkpoint(tmp_path, state, identity="b" * 64)
        with pytest.raises(StoreConflict, match="a checkpoint of another run"):
            read_checkpoint(tmp_path, state, identity=IDENTITY)


def test_a_checkpoint_larger_than_the_network_is_not_read(tmp_path):
    state = trained(0)
    with (tmp_path / CHECKPOINT_FILE).open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(RunCorrupt, match="cannot be read"):
        read_checkpoint(tmp_path, state, identity=IDENTITY)


def test_the_scaler_of_fp16_comes_back():
    """With torch's scaler for the CPU, because none of the machines that test has a GPU."""
    first, other = (MixedPrecision(Recipe(), torch.device("cpu")) for _ in range(2))
    first.scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=7)
    other.scaler = torch.amp.GradScaler("cpu")
    assert first.state() != other.state()
    other.load(first.state())
    assert other.state() == first.state()
    assert other.scaler.get_growth_interval() == 7


def test_a_network_of_another_shape_is_refused(tmp_path):
    with torch.random.fork_rng():
        write_checkpoint(tmp_path, trained(0), identity=IDENTITY)
        state = trained(0)
        state.module[2] = torch.nn.Linear(2, 3)
        with pytest.raises(RunCorrupt, match="size mismatch"):
            read_checkpoint(tmp_path, state, identity=IDENTITY)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, (90_000).to_bytes(8, "little") + b"[" * 90_000, None])
def test_a_damaged_newest_checkpoint_counts_as_no_step_and_is_refused(tmp_path, content):
    """None: a FIFO, which would block a reader for ever."""
    path = tmp_path / CHECKPOINT_FILE
    os.mkfifo(path) if content is None else path.write_bytes(content)
    assert saved_step(tmp_path) == 0
    with torch.random.fork_rng(), pytest.raises(RunCorrupt):
        read_checkpoint(tmp_path, trained(0), identity=IDENTITY)
