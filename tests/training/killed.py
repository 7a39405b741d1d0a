"""Training that kills itself with SIGKILL; run by test_resume.py in processes of its own.

    python tests/training/killed.py FOLDER OUT STEP

Trains into OUT and dies before step STEP; with STEP 0 it trains to the end.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from softlabels.sources import as_source
from softlabels.training import train_student

OPTIONS = {
    "steps": 44, "batch_size": 12, "accumulation": 2, "ema": 0.9, "eval_every": 4, "patience": 50, "log_every": 3,
    "seed": 5, "optimizer": "adamw", "schedule": "linear",
}  # fmt: skip


class Dropping(torch.nn.Module):
    """A student with dropout and running statistics that dies at a step."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)
        )
        self.steps, self.last = 0, last

    def forward(self, x):
        if self.training:
            self.steps += 1
            if self.steps == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(x)


def data():
    """Return small labelled data with a split column."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    x = (rng.normal(size=(120, 3)) + labels[:, None]).astype(np.float32)
    return as_source({"x": x, "label": labels, "split": np.where(np.arange(120) < 100, "train", "test")})


def train(folder, out, network, **options):
    """Train a student from the labels in a folder; a checkpoint is written after each step."""
    torch.set_num_threads(1)
    options = OPTIONS | {"checkpoint_seconds": 0.0, "keep_checkpoints": 2} | options
    return train_student(Path(folder) / "labels", data(), network, out, **options)


if __name__ == "__main__":
    # By the name that its code has in other processes, too.
    from tests.training import killed

    killed.train(sys.argv[1], Path(sys.argv[2]), killed.Dropping(int(sys.argv[3])))
