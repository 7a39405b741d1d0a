"""Train from stored labels in a loop of your own; a checkpoint within an epoch resumes with the remaining rows.

    python docs/examples/plain_pytorch.py STORE OUT [--steps 40]

STORE holds soft labels of the bundled digits. A second run resumes behind the last step in OUT. Needs torch alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import softlabels as sl


def train(store: Path, out: Path, *, steps: int = 40) -> list[float]:
    """Take steps, save a checkpoint, and return the losses."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    loader = sl.loader(sl.open(store), inputs="digits", batch_size=200, seed=0, device="cpu")
    if out.exists():
        saved = torch.load(out, weights_only=True)
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
    losses: list[float] = []
    while True:
        for batch in loader:
            logits = student(batch.inputs.float() / 16)
            # 0.9 * KL to the teacher + 0.1 * cross-entropy with the hard labels
            loss = sl.losses.distillation(logits, batch.targets["logits"], batch.hard, alpha=0.9)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state | {"loader": loader.state_dict()}, out)
                return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    print(f"last loss {train(arguments.store, arguments.out, steps=arguments.steps)[-1]:.4f}")
