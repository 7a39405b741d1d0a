"""Train from stored labels with Lightning; a checkpoint within an epoch resumes with exactly the remaining rows.

    python docs/examples/lightning_resume.py STORE OUT [--checkpoint FILE]

The Loader is the train dataloader: Lightning saves its state in every checkpoint and loads it again. On several devices
pass ``rank`` and ``world_size`` to the Loader. Needs pytorch-lightning.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import softlabels as sl
from softlabels.loading import Batch


class Student(pl.LightningModule):
    """A network of one hidden layer, which records the rows that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.rows: list[int] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the KL to the teacher."""
        self.rows += batch.rows.tolist()
        return sl.losses.kl(self.network(batch.inputs.float() / 16), batch.targets["logits"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(store: Path, out: Path, *, checkpoint: Path | None = None, **options: Any) -> Student:
    """Train a student from a store of the bundled digits."""
    loader = sl.loader(sl.open(store), inputs="digits", batch_size=200, seed=0, device="cpu")
    pl.seed_everything(0, verbose=False)
    student = Student()
    settings: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "default_root_dir": str(out)}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(**(settings | quiet | options))
    trainer.fit(student, loader, ckpt_path=checkpoint)
    return student


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    print(f"{len(train(arguments.store, arguments.out, checkpoint=arguments.checkpoint).rows):,} rows were seen")
