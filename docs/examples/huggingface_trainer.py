"""Train a causal language model from stored token labels with the Trainer of transformers.

    python docs/examples/huggingface_trainer.py OUT [--steps 20] [--resume]

Everything is made here: a small GPT-2 teacher and student with random weights, and token sequences. With --resume the
Trainer resumes from its last checkpoint in OUT. torchrun runs it on several processes. Needs
transformers and accelerate.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import softlabels as sl
from softlabels.loading.adapters.huggingface import trainer_arguments
from softlabels.loading.adapters.torch_datasets import LabelDataset
from softlabels.sources import TokenSource

VOCABULARY = 101


def gpt2(width: int, seed: int) -> GPT2LMHeadModel:
    """Return a small model with random weights."""
    torch.manual_seed(seed)
    options = {"n_embd": width, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **options))


def texts(count: int) -> list[list[int]]:
    """Return token ids of texts of various lengths."""
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCABULARY, int(length)).tolist() for length in rng.integers(4, 30, count)]


def label(path: Path, tokens: TokenSource) -> None:
    """Store the teacher's outputs for texts without labels: L tokens give L - 1 positions."""
    teacher = gpt2(width=32, seed=0).eval()
    head = sl.Head(kind="tokens", classes=VOCABULARY, shape=(None,), encoding="topk:16", temperatures=(1.0, 2.0))
    with sl.create(path, heads={"logits": head}, teacher="a small GPT-2") as writer, torch.no_grad():
        for row in writer.missing(tokens.keys()):
            ids = torch.from_numpy(tokens.inputs(np.array([row])).values)
            writer.append(tokens.keys(row, row + 1), {"logits": [teacher(ids[None]).logits[0, :-1]]})


def train(out: Path, *, steps: int = 20, resume: bool = False, **options: Any) -> Trainer:
    """Label the texts, then train a student from the labels alone."""
    tokens = TokenSource(texts(64))
    student = gpt2(width=16, seed=1)
    settings = {
        "output_dir": str(out / "student"),
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "save_steps": 5,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    arguments = TrainingArguments(**(settings | options))
    with arguments.main_process_first(local=False):  # one process labels, the others wait
        if arguments.process_index == 0:
            label(out / "labels", tokens)
    dataset = LabelDataset(sl.open(out / "labels"), inputs=tokens)
    # Refuses another vocabulary, and a temperature that was not captured, before the first step.
    ready = trainer_arguments(dataset, student, temperature=2.0, alpha=0.9)
    trainer = Trainer(model=student, args=arguments, train_dataset=dataset, **ready)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    finished = train(arguments.out, steps=arguments.steps, resume=arguments.resume)
    print(f"loss after {finished.state.global_step} steps: {finished.state.log_history[-2]['loss']:.4f}")
