"""Labels of benchmarks/students.py: the teacher's logits, stores of them, and labels that no store holds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import language_model
import numpy as np
import torch
from language_model import CONTEXT, Shape
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import softlabels as sl
from softlabels import encodings
from softlabels.encodings.families.counts import Counts, excess_over
from softlabels.labels import DenseLabels, SparseLabels

CACHE = language_model.ROOT / "cache" / "students"
TEACHER = Shape(layers=3, width=128, vocabulary=2048)
TEACHER_STEPS, TEACHER_BATCH = 500, 8
BLOCK = 16
"""Sequences whose logits are held at a time."""


def sequences(tokens: NDArray[np.uint16], count: int) -> NDArray[np.int64]:
    """Return (count, CONTEXT + 1) tokens, from all over the text, without overlap."""
    usable = len(tokens) // (CONTEXT + 1)
    starts = np.linspace(0, usable - 1, num=count).astype(np.int64) * (CONTEXT + 1)
    return np.asarray(tokens[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int64))


def canonical(spec: str) -> str:
    """Return the specification that a new store has for an encoding."""
    return encodings.parse(spec, classes=TEACHER.vocabulary).current.spec


class Teacher:
    """Predictions of the teacher on the training sequences and on held-out ones.

    Attributes:
        data: (count, CONTEXT + 1) tokens of the training sequences, in random order.
        held_out: The same of held-out text.
        logits: (count, CONTEXT, C) float16 on ``data``, from the cache.
        sharpness: Factor of the logits.
    """

    def __init__(self, count: int, held_out: int, sharpness: float) -> None:
        model = language_model.train(TEACHER_STEPS, 0, TEACHER, TEACHER_BATCH)
        train, validation = language_model.token_files(TEACHER.vocabulary)
        self.data = np.random.default_rng(0).permutation(sequences(train, count))
        self.held_out = sequences(validation, held_out)
        self.sharpness = sharpness
        path = CACHE / f"logits-{count}.npy"
        if not path.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npy")
            out = np.lib.format.open_memmap(partial, "w+", np.float16, (count, CONTEXT, TEACHER.vocabulary))
            for start in tqdm(range(0, count, BLOCK), desc="teacher", mininterval=10):
                out[start : start + BLOCK] = _predict(model, self.data[start : start + BLOCK]).half().numpy()
            out.flush()
            partial.rename(path)
        self.logits = np.load(path, mmap_mode="r")
        self.on_held_out = torch.cat([
            (_predict(model, block) * sharpness).log_softmax(-1)
            for block in np.array_split(self.held_out, max(1, held_out // BLOCK))
        ])  # fmt: skip

    @property
    def entropy(self) -> float:
        """Mean entropy on held-out text, in nats."""
        return -(self.on_held_out.exp() * self.on_held_out).sum(-1).mean().item()

    @property
    def positions(self) -> int:
        """Number of training positions."""
        return len(self.data) * CONTEXT

    def of(self, rows: NDArray[np.int64] | slice) -> Tensor:
        """Return the logits of some sequences, (n, CONTEXT, C) float32."""
        return torch.from_numpy(self.logits[rows].astype(np.float32) * np.float32(self.sharpness))

    def store(self, spec: str) -> Path:
        """Return the directory of the store of an encoding."""
        name = f"{canonical(spec)}-{len(self.data)}-{self.sharpness:g}"
        return CACHE / "".join(letter if letter.isalnum() else "-" for letter in name)

    def write_stores(self, specs: set[str]) -> None:
        """Write the stores of encodings in one pass over the logits; complete ones are left alone."""
        missing = [spec for spec in sorted(specs) if not (self.store(spec) / "snapshots").exists()]
        with contextlib.ExitStack() as stack:
            writers = []
            for spec in missing:
                head = sl.Head(classes=TEACHER.vocabulary, kind="tokens", shape=(None,), encoding=spec)
                writer = sl.create(self.store(spec), heads={"logits": head}, teacher="GPT, 3 layers", unit_rows=64)
                writers.append(stack.enter_context(writer))
            for start in tqdm(range(0, len(self.data) if missing else 0, BLOCK), desc="labels", mininterval=10):
                rows = list(range(start, min(start + BLOCK, len(self.data))))
                logits = list(self.of(slice(rows[0], rows[-1] + 1)))
                for writer in writers:
                    writer.append(rows, {"logits": logits})

    def labels(self, spec: str, batch: int) -> Iterator[SparseLabels]:
        """Yield the stored labels of each batch of sequences, in the order of the data."""
        for targets in sl.loader(sl.open(self.store(spec)), batch_size=batch, shuffle=False):
            labels = targets.targets["logits"]
            assert isinstance(labels, SparseLabels)
            yield labels

    def bytes_per_token(self, spec: str, entry_bits: int | None) -> float:
        """Return the bytes of a store per token, keys included; or those of so many bits for each listed class."""
        if entry_bits is None:
            return sl.open(self.store(spec)).bytes / self.positions
        listed = sum(int(np.isfinite(labels.values).sum()) for labels in self.labels(spec, BLOCK))
        return listed * entry_bits / 8 / self.positions

    def epoch_seconds(self, spec: str) -> float:
        """Return the CPU time of a shuffled epoch of a store, opened, verified and decoded anew."""
        began = time.process_time()
        for batch in sl.loader(sl.open(self.store(spec)), batch_size=BLOCK):
            assert batch.targets["logits"].classes == TEACHER.vocabulary
        return time.process_time() - began

    def mean_of_counts(self, spec: str, rows: NDArray[np.int64]) -> DenseLabels:
        """Return the mean over draws of the labels that ``counts`` makes of some sequences."""
        store = sl.open(self.store(spec))
        encoding = encodings.parse(store.heads["logits"].encoding, classes=TEACHER.vocabulary)
        assert isinstance(encoding, Counts)
        book = store.codebook("logits")
        assert book is not None
        p = self.of(rows).flatten(0, 1).softmax(dim=-1)
        pi = book.priors[0][book.nearest_to(p)].astype(np.float64)
        exact = p.double().numpy()
        above = np.where(exact >= encoding.floor, exact, 0.0)
        excess = excess_over(above, np.where(above > 0, pi, 0.0), 1 - above.sum(axis=1))
        share = 1 - excess.sum(axis=1, keepdims=True)
        return DenseLabels(np.log(excess + share * pi).astype(np.float32))

    def along_positions(self, draws: int, rows: NDArray[np.int64]) -> Tensor:
        """Return N draws per position that are systematic along the positions of a sequence, (n * CONTEXT, C) weights.

        Each class has an offset in each sequence, and is drawn where its cumulated probability, times N, crosses a
        whole number. A position's weights do not sum to 1; their mean is the teacher's distribution.
        """
        u = np.stack([np.random.default_rng([7, row]).random(TEACHER.vocabulary) for row in rows])
        crossed = torch.from_numpy(u)[:, None] + self.of(rows).softmax(-1).double().mul_(draws).cumsum_(1)
        first = torch.from_numpy(u).floor()[:, None]
        return torch.diff(crossed.floor_(), dim=1, prepend=first).flatten(0, 1).float().div_(draws)


@torch.no_grad()
def _predict(model: language_model.GPT, data: NDArray[np.int64]) -> Tensor:
    """Return the (n, CONTEXT, C) float32 logits of whole sequences."""
    return model.logits(torch.from_numpy(data[:, :-1]))
