"""Damaged and forged runs: every bit of a checkpoint, weights, tokenizer and description, and documents signed again.

A flipped bit must be refused. A forgery carries the right digests, as somebody who knows the format would make it; it
must be refused by an error of softlabels, or read.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from softlabels.errors import RunCorrupt, SoftLabelsError
from softlabels.models import load_run
from softlabels.models.digest import digest_of, state_of
from softlabels.models.run_directory import tensors_from_bytes, tensors_to_bytes
from softlabels.models.run_files import write_file
from softlabels.sources import as_source
from softlabels.store.format import canonical_json
from softlabels.text import Tokenizer
from softlabels.text.options import TextOptions
from softlabels.training import train_teacher
from softlabels.training.checkpoint import CHECKPOINT_FILE, METADATA, read_checkpoint, write_checkpoint
from softlabels.training.optimization import MixedPrecision, WeightAverage
from softlabels.training.recipe import Recipe
from softlabels.training.state import TrainingState
from softlabels.training.stopping import EarlyStopping
from tests.reliability import world

IDENTITY = "a" * 64
RUN_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "run.json", "model.safetensors", "tokenizer.json"
VALUES: tuple[Any, ...] = (
    None, -1, 0, float("inf"), 2**31, 2**63, 2**70, 1e308, 0.5, "", "x", "f" * 64, [], {}, True, [[]], [None],
    "9" * 5000,
)  # fmt: skip
"""Values that forged documents hold in place of right ones."""


@dataclass
class Runs:
    """Counts of an experiment.

    Attributes:
        flips: Single bits that were flipped, each in a file of its own.
        accepted: Files with a flipped bit that were read.
        forged: Documents that were changed and signed again.
        refused: Forgeries that were refused by an error of softlabels.
        untyped: Errors of another type.
    """

    flips: int = 0
    accepted: int = 0
    forged: int = 0
    refused: int = 0
    untyped: int = 0

    @property
    def violations(self) -> int:
        """Files that were read although a bit was flipped, and untyped errors."""
        return self.accepted + self.untyped


def run(*, every: int = 1, forged: int = 2000, seed: int = 0, progress: Callable[[int], None] = lambda _: None) -> Runs:
    """Flip every bit, or one in so many, and forge so many documents."""
    result, rng = Runs(), random.Random(seed)
    with _folder() as folder:
        read = _finished(folder)
        for name in (WEIGHTS_FILE, RUN_FILE):
            _flip(folder / name, every, read, result, progress)
        for _ in range(forged):
            _forge_run(folder, rng, read, result)
        progress(result.flips + result.forged)
    with _folder() as folder:
        _flip(folder / TOKENIZER_FILE, every, _finished_text(folder), result, progress)
    with _folder() as folder, torch.random.fork_rng():
        state, read = _checkpointed(folder)
        _flip(folder / CHECKPOINT_FILE, every, read, result, progress)
        for _ in range(forged):
            _forge_checkpoint(folder, state, rng, read, result)
    progress(result.flips + result.forged)
    return result


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=world.TEMPORARY if world.TEMPORARY.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _finished(folder: Path) -> Callable[[], object]:
    """Train the smallest network, and return a function that reads its run."""
    data = {"x": torch.randn(20, 1).numpy(), "label": (torch.arange(20) % 2).numpy()}
    train_teacher(data, "mlp:width=1,depth=1", folder, steps=1)
    return lambda: load_run(folder)


def _finished_text(folder: Path) -> Callable[[], object]:
    """Train the smallest language model, which has a tokenizer, and return a function that reads its run."""
    tokenizer = Tokenizer.train(["to be or not to be"] * 9, vocabulary=258)
    source = as_source(pa.table({"text": ["to be or not to be"] * 9}), text=TextOptions(tokenizer=tokenizer))
    train_teacher(source, "gpt:layers=1,width=8,heads=1", folder, steps=1)
    return lambda: load_run(folder)


def _state() -> TrainingState:
    """Return the state of the smallest network after a step, with moments, an average and a best evaluation."""
    module = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 1)).sum().backward()
    optimizer.step()
    precision = MixedPrecision(Recipe(), torch.device("cpu"))
    state = TrainingState(module, optimizer, precision, WeightAverage(module, 0.9), EarlyStopping(2), step=7)
    state.stopping.add(7, 0.5, state_of(module))
    return state


def _checkpointed(folder: Path) -> tuple[TrainingState, Callable[[], object]]:
    """Write a checkpoint, and return its state with a function that restores it."""
    state, other = _state(), _state()
    write_checkpoint(folder, state, identity=IDENTITY)
    return state, lambda: read_checkpoint(folder, other, identity=IDENTITY)


def _flip(path: Path, every: int, read: Callable[[], object], result: Runs, progress: Callable[[int], None]) -> None:
    original = path.read_bytes()
    for bit in range(0, 8 * len(original), every):
        data = bytearray(original)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        result.flips += 1
        try:
            read()
        except RunCorrupt:
            pass
        except Exception:  # noqa: BLE001  counted
            result.untyped += 1
        else:
            result.accepted += 1
        if result.flips % 1000 == 0:
            progress(result.flips + result.forged)
    path.write_bytes(original)
    read()


def _judge(read: Callable[[], object], result: Runs) -> None:
    result.forged += 1
    try:
        read()
    except SoftLabelsError:
        result.refused += 1
    except Exception:  # noqa: BLE001  counted
        result.untyped += 1


def _forge_run(folder: Path, rng: random.Random, read: Callable[[], object], result: Runs) -> None:
    original = (folder / RUN_FILE).read_bytes()
    document = json.loads(original)
    del document["digest"]
    _change(document, rng)
    try:
        document["digest"] = canonical_json.digest(document)
        data = canonical_json.to_bytes(document)
    except ValueError:  # canonical JSON has no such number, so no signature exists
        return
    (folder / RUN_FILE).write_bytes(data + b"\n")
    _judge(read, result)
    (folder / RUN_FILE).write_bytes(original)


def _forge_checkpoint(
    folder: Path, state: TrainingState, rng: random.Random, read: Callable[[], object], result: Runs
) -> None:
    path = folder / CHECKPOINT_FILE
    original = path.read_bytes()
    tensors = tensors_from_bytes(path, original)
    header: dict[str, Any] = json.loads(json.dumps(state.numbers() | {"identity": IDENTITY}))
    if rng.random() < 0.5:
        _change(header, rng)
    else:
        name = rng.choice(sorted(tensors))
        value = tensors.pop(name)
        changes: list[Callable[[], torch.Tensor | None]] = [
            lambda: None,
            lambda: value.reshape(-1)[:0],
            lambda: value.to(torch.float64),
            lambda: value.to(torch.int16),
            lambda: torch.full_like(value.float(), float("nan")),
            lambda: value[None],
            lambda: torch.zeros(64, dtype=torch.bool),
        ]
        changed = rng.choice(changes)()
        if changed is not None:
            tensors[rng.choice([name, name, f"{name}/x", "optimizer/exp_avg/other", "x"])] = changed.contiguous()
    metadata = json.dumps(header | {"digest": digest_of(header, tensors)}, sort_keys=True)
    write_file(folder, CHECKPOINT_FILE, tensors_to_bytes(tensors, {METADATA: metadata}))
    _judge(read, result)
    path.write_bytes(original)


def _change(document: dict[str, Any], rng: random.Random) -> None:
    """Change a value at a random place of a document."""
    parent: Any = document
    while True:
        names = sorted(parent) if isinstance(parent, dict) else list(range(len(parent)))
        name = rng.choice(names)
        child = parent[name]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.2:
            break
        parent = child
    if isinstance(parent, dict) and rng.random() < 0.2:
        del parent[name]
    else:
        parent[name] = rng.choice(VALUES)
