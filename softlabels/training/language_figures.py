"""Quality of models that predict the next token: loss, KL and agreement with labels, and a sample of their text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from softlabels import losses
from softlabels.errors import InvalidArgument
from softlabels.labels import SoftLabels, SparseLabels
from softlabels.models import Model
from softlabels.sources import Ragged, Source
from softlabels.store import Store
from softlabels.text import Tokenizer, next_tokens
from softlabels.training.figures import likeliest
from softlabels.training.language import text_head, tokenizer_of

MEASURED_TOKENS = 2**13
"""Tokens of a batch that is measured."""


@dataclass(frozen=True, kw_only=True)
class LanguageFigures:
    """Quality of a model on text.

    Attributes:
        loss: Mean cross-entropy of the next token in nats.
        tokens: Number of predicted tokens.
        bits_per_byte: Cross-entropy in bits per byte of UTF-8 text; None without a tokenizer.
        kl: Mean KL divergence of the labels from the model in nats per token; None without labels. Labels that are a
            sample do not tell it: then it is that of the store's dense rows, None if the rows have none.
        agreement: Share of tokens whose likeliest class is that of the labels, or of the dense rows, as for ``kl``.
    """

    loss: float
    tokens: int
    bits_per_byte: float | None = None
    kl: float | None = None
    agreement: float | None = None

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(min(self.loss, 700.0))


def measure_text(model: Model, source: Source, rows: NDArray[np.int64], store: Store | None = None) -> LanguageFigures:
    """Return the quality of a model on rows of text.

    Args:
        model: The model.
        source: Text; with ``store``, the tokens of that store.
        rows: Row numbers, (n,).
        store: Soft labels of the same rows; None: the model is compared with the text alone.

    Raises:
        InvalidArgument: The rows have no predicted token.
    """
    name = text_head(model)
    total = _Sums()
    is_sample = store is not None and _is_sample(store.read(rows[:1], name))
    if store is not None and is_sample:
        total.add_dense(model, source, rows, store, name)
    for batch in batches_by_tokens(source, rows):
        inputs: Ragged = source.inputs(batch)
        following, counts = (
            torch.from_numpy(array) for array in next_tokens(inputs.values, inputs.lengths, inputs.marks)
        )
        logits = model.predict(inputs)[name].float().cpu()
        total.add(logits, following, counts, None if store is None or is_sample else store.read(batch, name))
    if total.tokens == 0:
        raise InvalidArgument(f"{source.spec}: nothing to measure, got {len(rows)} rows without a predicted token")
    return total.figures(bytes_per_token(source, rows))


def batches_by_tokens(source: Source, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return rows in batches of about ``MEASURED_TOKENS`` tokens.

    Args:
        source: The data.
        rows: Row numbers, (n,).
    """
    size = max(1, MEASURED_TOKENS // source.input_shape[0])
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def bytes_per_token(source: Source, rows: NDArray[np.int64]) -> float | None:
    """Return the mean bytes of UTF-8 text of a token; None without a tokenizer.

    Args:
        source: The text.
        rows: Row numbers, (n,).
    """
    tokenizer = tokenizer_of(source)
    if tokenizer is None:
        return None
    size = tokens = 0
    for batch in batches_by_tokens(source, rows):
        inputs = source.inputs(batch)
        tokens += len(inputs.values)
        size += len(tokenizer.decode(inputs.values).encode(errors="replace"))
    return size / tokens


def sample_text(model: Model, tokenizer: Tokenizer, *, tokens: int = 64, seed: int = 0, prompt: str = "") -> str:
    """Return text that a model continues, one sampled token after the other.

    Args:
        model: A model that predicts the next token.
        tokenizer: Its tokenizer.
        tokens: Number of tokens to sample.
        seed: Seed of the samples.
        prompt: Text to continue; by default a new document.
    """
    generator = torch.Generator().manual_seed(seed)
    start = tokenizer.encode([prompt])[0].tolist() if prompt else []
    ids = start or [tokenizer.end if tokenizer.end is not None else 0]
    name, first = text_head(model), len(ids)
    for _ in range(tokens):
        inputs = Ragged(np.array(ids, np.int64), np.array([len(ids)], np.int64), None)
        probabilities = model.predict(inputs)[name][-1].float().cpu().softmax(dim=-1)
        token = int(torch.multinomial(probabilities, 1, generator=generator))
        if token == tokenizer.end:
            break
        ids.append(token)
    return tokenizer.decode(ids[first:])


class _Sums:
    """Sums over batches that figures are computed from."""

    def __init__(self) -> None:
        self.tokens = self.compared = 0
        self.loss = self.kl = self.agreeing = 0.0

    def add(self, logits: Tensor, following: Tensor, counts: Tensor, labels: SoftLabels | None) -> None:
        """Add the positions of a batch."""
        count = int(counts.sum())
        if count == 0:
            return
        self.tokens += count
        self.loss += float(functional.cross_entropy(logits[counts], following[counts], reduction="sum"))
        if labels is not None:
            temperature = labels.temperatures[0] if isinstance(labels, SparseLabels) else 1.0
            divergence = losses.kl(logits, labels, temperature=temperature, mask=counts, scale_by_temperature=False)
            self.kl += float(divergence) * count
            self.agreeing += float((likeliest(labels) == logits.argmax(dim=-1))[counts].sum())
            self.compared += count

    def add_dense(self, model: Model, source: Source, rows: NDArray[np.int64], store: Store, head: str) -> None:
        """Compare the positions of rows that the store holds dense."""
        probe = store.probe(head)
        if probe is None or probe.positions is None:
            return
        for index in np.flatnonzero(np.isin(probe.rows, rows)):
            logits = model.predict(source.inputs(probe.rows[index : index + 1]))[head][int(probe.positions[index])]
            log_q = logits.float().cpu().log_softmax(dim=-1)
            log_p = torch.from_numpy(np.array(probe.logits[index])).flatten().log_softmax(dim=-1)
            self.kl += float(torch.where(log_p.isfinite(), log_p.exp() * (log_p - log_q), 0.0).sum())
            self.agreeing += float(log_p.argmax() == log_q.argmax())
            self.compared += 1

    def figures(self, bytes_per_token: float | None) -> LanguageFigures:
        """Return the means."""
        loss = self.loss / self.tokens
        return LanguageFigures(
            loss=loss,
            tokens=self.tokens,
            bits_per_byte=None if bytes_per_token is None else loss / math.log(2) / bytes_per_token,
            kl=self.kl / self.compared if self.compared else None,
            agreement=self.agreeing / self.compared if self.compared else None,
        )


def _is_sample(labels: SoftLabels) -> bool:
    return isinstance(labels, SparseLabels) and labels.is_sample
