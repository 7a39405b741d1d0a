"""Train from stored labels with accelerate, on any number of processes; its checkpoints hold the loader's position.

    accelerate launch docs/examples/accelerate_resume.py STORE OUT [--steps 10]

A second run resumes behind the last checkpoint in OUT, on any number of processes. Needs accelerate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

import softlabels as sl


def train(store: Path, out: Path, *, steps: int = 10, cpu: bool = True) -> list[int]:
    """Take steps, save a checkpoint, and return the rows that were seen."""
    accelerator = Accelerator(cpu=cpu)
    set_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    student, optimizer = accelerator.prepare(network, torch.optim.AdamW(network.parameters(), lr=1e-3))
    # The loader divides its batches among the ranks itself, so it is registered rather than prepared.
    loader = sl.loader(
        sl.open(store),
        inputs="digits",
        batch_size=200,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=accelerator.device,
    )
    accelerator.register_for_checkpointing(loader)
    if out.exists():
        accelerator.load_state(str(out))
    seen: list[int] = []
    while True:
        for batch in loader:
            seen += batch.rows.tolist()
            loss = sl.losses.kl(student(batch.inputs.float() / 16), batch.targets["logits"])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            steps -= 1
            if steps == 0:
                accelerator.save_state(str(out))
                return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    print(f"{len(train(arguments.store, arguments.out, steps=arguments.steps)):,} rows were seen")
