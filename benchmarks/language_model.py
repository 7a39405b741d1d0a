"""The language model that the benchmarks of fidelity and of students ask: a small GPT on real text, trained here.

    python benchmarks/language_model.py [--steps 1500] [--seed 0]

Text: the source of Python's standard library, and tinyshakespeare.txt where it lies in ../shared/data; byte-level BPE
with 16,384 tokens unless another size is asked for. Files are shuffled and the last twentieth of the tokens is held
out. Model and tokens are cached in cache/language_model and used again while the settings are the same; training takes
about 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "cache" / "language_model"
SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
VOCABULARY = 16_384
LARGEST_FILE = 200_000
"""Bytes; larger files of the standard library are tables."""
CONTEXT = 256
BATCH = 16
HELD_OUT = 0.05
PEAK_LR = 2e-3


@dataclass(frozen=True)
class Shape:
    """Sizes of a GPT."""

    layers: int
    width: int
    vocabulary: int = VOCABULARY


TEACHER = Shape(layers=4, width=256)


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 32
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to the same."""
        q, k, v = (
            projection.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A decoder with tied embeddings: (B, L) token ids to (B, L, D) states; ``logits`` applies the head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(CONTEXT, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                scale = 0.02 / math.sqrt(2 * shape.layers) if name.endswith(("out.weight", "down.weight")) else 0.02
                nn.init.normal_(weight, std=scale)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) token ids to (B, L, D) states."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def logits(self, ids: Tensor) -> Tensor:
        """(B, L) to (B, L, V) in bfloat16 multiplications, float32 results."""
        with torch.autocast("cpu", torch.bfloat16):
            states = self(ids)
            return functional.linear(states, self.embedding.weight).float()


def token_files(vocabulary: int = VOCABULARY) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out tokens, uint16; made once for each size of vocabulary."""
    folder = CACHE / str(vocabulary)
    if not (folder / "train.npy").exists():
        _tokenize(folder, vocabulary)
    return np.load(folder / "train.npy"), np.load(folder / "held_out.npy")


def _tokenize(folder: Path, vocabulary: int) -> None:
    from tokenizers import ByteLevelBPETokenizer

    library = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path for path in sorted(library.rglob("*.py"))
        if "site-packages" not in path.parts and path.stat().st_size <= LARGEST_FILE
    ]  # fmt: skip
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    if SHAKESPEARE.exists():
        plays = SHAKESPEARE.read_text()
        texts += [plays[start : start + 20_000] for start in range(0, len(plays), 20_000)]
    random.Random(0).shuffle(texts)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocabulary, show_progress=False)
    tokens = np.concatenate([np.array(encoded.ids, np.uint16) for encoded in tokenizer.encode_batch(texts)])
    split = int(len(tokens) * (1 - HELD_OUT))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "held_out.npy", tokens[split:])
    np.save(folder / "train.npy", tokens[:split])
    tokenizer.save(str(folder / "tokenizer.json"))


def batch(tokens: np.ndarray, generator: np.random.Generator, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Inputs and next tokens, (size, CONTEXT) int64 each, from random places."""
    starts = generator.integers(0, len(tokens) - CONTEXT - 1, size)
    rows = np.stack([tokens[s : s + CONTEXT + 1] for s in starts]).astype(np.int64)
    return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])


def learning_rate(step: int, steps: int, peak: float = PEAK_LR, warm_up: float = 0.05) -> float:
    """Warm-up over a share of the steps, then a cosine to a tenth."""
    warm = max(1, int(steps * warm_up))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with decay on matrices alone."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95))


@torch.no_grad()
def held_out_loss(model: GPT, tokens: np.ndarray, batches: int = 8) -> tuple[float, float]:
    """Mean cross-entropy and mean entropy on held-out text, in nats a token."""
    generator, losses, entropies = np.random.default_rng(1), [], []
    for _ in range(batches):
        ids, following = batch(tokens, generator)
        log_q = model.logits(ids).log_softmax(-1)
        losses.append(functional.nll_loss(log_q.flatten(0, 1), following.flatten()).item())
        entropies.append(-(log_q.exp() * log_q).sum(-1).mean().item())
    return float(np.mean(losses)), float(np.mean(entropies))


def train(steps: int, seed: int, shape: Shape = TEACHER, size: int = BATCH) -> GPT:
    """The teacher, from the cache where it was trained with these settings."""
    settings = asdict(shape) | {"steps": steps, "seed": seed, "batch": size}
    folder = CACHE / str(shape.vocabulary)
    weights, about = folder / "teacher.safetensors", folder / "teacher.json"
    torch.manual_seed(seed)
    model = GPT(shape)
    if about.exists() and json.loads(about.read_text())["settings"] == settings:
        model.load_state_dict(load_file(weights))
        return model.eval()
    tokens, held_out = token_files(shape.vocabulary)
    generator, optimizer, start = np.random.default_rng(seed), optimizer_of(model), time.time()
    progress = tqdm(range(steps), unit="step", mininterval=10)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        ids, following = batch(tokens, generator, size)
        with torch.autocast("cpu", torch.bfloat16):
            states = model(ids).flatten(0, 1)
            logits = functional.linear(states, model.embedding.weight)
        loss = functional.cross_entropy(logits.float(), following.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
    loss, entropy = held_out_loss(model, held_out)
    figures = {
        "tokens_in_data": len(tokens), "tokens_seen": steps * size * CONTEXT, "held_out_loss": loss,
        "held_out_entropy": entropy, "seconds": time.time() - start,
    }  # fmt: skip
    save_file(model.state_dict(), weights)
    about.write_text(json.dumps({"settings": settings} | figures, indent=2))
    print(json.dumps(figures, indent=2))
    return model


def main() -> None:
    """Train, or say what is cached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train(options.steps, options.seed)
    print((CACHE / str(VOCABULARY) / "teacher.json").read_text())


if __name__ == "__main__":
    main()
