"""Train from stored labels with Lightning; a checkpoint in mid-epoch goes on with exactly the remaining rows.

    python docs/examples/lightning_resume.py STORE OUT [--checkpoint FILE]

The Loader is the train dataloader: Lightning keeps its state in every checkpoint and hands it back. On several devices
give the Loader ``rank`` and ``world_size``. Needs pytorch-lightning.
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
from softlabels.sources import open_source


class Student(pl.LightningModule):
    """A network of one hidden layer; remembers which rows it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.rows: list[int] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The KL to the teacher."""
        self.rows += batch.rows.tolist()
        return sl.losses.kl(self.network(batch.inputs.float() / 16), batch.targets["logits"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(store: Path, out: Path, *, checkpoint: Path | None = None, **options: Any) -> Student:
    """Train a student from a store of the bundled digits."""
    loader = sl.loader(sl.open(store), inputs=open_source("digits"), batch_size=200, seed=0, device="cpu")
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
    told = parser.parse_args()
    print(f"{len(train(told.store, told.out, checkpoint=told.checkpoint).rows):,} rows were seen")
