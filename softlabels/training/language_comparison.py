"""Language models side by side on the same text: perplexity, bits per byte, and how close they are to the first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from softlabels.errors import InvalidArgument
from softlabels.models import Model, ModelLike, as_model, needs_sample
from softlabels.models.run_record import RunRecord
from softlabels.models.spec import kind_of
from softlabels.sources import Source, as_source
from softlabels.sources.request import DataOptions
from softlabels.text import next_tokens
from softlabels.text.options import TextOptions
from softlabels.training.language_figures import batches_by_tokens, bytes_per_token

DEFAULT_PACK = 1024
"""Tokens of a row for models whose run does not tell."""


@dataclass(frozen=True, kw_only=True)
class ComparedText:
    """Quality of a model on text, beside the first model.

    Attributes:
        loss: Mean cross-entropy of the next token in nats.
        perplexity: Perplexity of the next token, the exponential of the loss.
        bits_per_byte: Cross-entropy in bits per byte of UTF-8 text.
        kl: Mean KL divergence of the first model from this one in nats per token.
        agreement: Share of tokens whose likeliest class is that of the first model.
        label_bytes_per_token: Size of the labels that the model was trained from, in bytes per predicted token, with
            the tokens per row of the rows that it held out; None without labels.
        tokens_per_second: Tokens per second in batches of 64 copies of the first measured row.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    kl: float
    agreement: float
    label_bytes_per_token: float | None = None
    tokens_per_second: float = 0.0


def language_models(models: Sequence[ModelLike]) -> list[Model] | None:
    """Return the models, loaded, if all of them predict the next token; None otherwise.

    Args:
        models: MODEL specifications, or anything ``as_model`` takes.
    """
    loaded = []
    for model in models:
        if isinstance(model, str) and kind_of(model).load is not None and not kind_of(model).runs_user_code:
            model = as_model(model)  # noqa: PLW2901  the same model, loaded
        if not isinstance(model, Model) or model.tokenizer is None or model.target != "next":
            return None
        loaded.append(model.to("cpu"))
    return loaded or None


def text_of_models(models: Sequence[ModelLike], text: TextOptions | None) -> tuple[list[ModelLike], TextOptions | None]:
    """Return models of rows or tokens of text, loaded, and options of text with their tokenizer and target.

    Args:
        models: MODEL specifications, or anything ``as_model`` takes.
        text: Options that were chosen; None: the defaults, if the first model has a tokenizer.

    Raises:
        InvalidArgument: The models have different tokenizers.
    """
    loaded: list[ModelLike] = []
    for model in models:
        is_spec = isinstance(model, str) and kind_of(model).load is not None and not needs_sample(model)
        loaded.append(as_model(model) if is_spec else model)
    first = loaded[0]
    if not isinstance(first, Model) or first.tokenizer is None:
        return loaded, text
    for model in loaded[1:]:
        if isinstance(model, Model):
            _check_tokenizers(first, model)
    return loaded, replace(text or TextOptions(), tokenizer=first.tokenizer, target=first.target)


def _check_tokenizers(first: Model, model: Model) -> None:
    """Raise InvalidArgument if two models have different tokenizers, so that their tokens cannot be compared."""
    if first.tokenizer is None or model.tokenizer is None:
        return
    difference = first.tokenizer.difference(model.tokenizer)
    if difference is not None:
        raise InvalidArgument(
            f"{model.spec}: another tokenizer than {first.spec}, got one where {difference}; expected the same. "
            "Compare models of different tokenizers one at a time, by bits per byte"
        )


def open_text(models: Sequence[Model], data: Any, text: TextOptions | None, **columns: Unpack[DataOptions]) -> Source:
    """Return the text that models are measured on, packed as the first model was trained.

    Args:
        models: Language models.
        data: Anything ``as_source`` takes.
        text: Options of text; None: the defaults.
        columns: Roles of columns; see ``softlabels.sources.open_source``.

    Raises:
        InvalidArgument: The models have different tokenizers, so their tokens cannot be compared.
    """
    first = models[0]
    for model in models[1:]:
        _check_tokenizers(first, model)
    options = replace(text or TextOptions(), tokenizer=first.tokenizer)
    if options.pack is None and not isinstance(data, Source):
        length = first.run.data.shape[0] if first.run is not None and first.run.data.shape else DEFAULT_PACK
        limit = getattr(first.module, "max_positions", None)
        options = replace(options, pack=min(length, limit) if isinstance(limit, int) else length)
    return as_source(data, text=None if isinstance(data, Source) else options, **columns)


def compare_text(models: Sequence[Model], source: Source, rows: NDArray[np.int64]) -> list[ComparedText]:
    """Return the quality of models on the same rows.

    Args:
        models: Language models of one tokenizer; the others are compared with the first.
        source: The text.
        rows: Row numbers, (n,).

    Raises:
        InvalidArgument: The rows have no predicted token.
    """
    sums = np.zeros((len(models), 3))
    tokens = 0
    for batch in batches_by_tokens(source, rows):
        inputs = source.inputs(batch)
        following, counts = (
            torch.from_numpy(array) for array in next_tokens(inputs.values, inputs.lengths, inputs.marks)
        )
        tokens += int(counts.sum())
        reference: Tensor | None = None
        for index, model in enumerate(models):
            log_q = next(iter(model.predict(inputs).values())).float().log_softmax(dim=-1)[counts]
            reference = log_q if reference is None else reference
            width = min(log_q.shape[1], reference.shape[1])  # heads may be padded beyond the vocabulary
            log_p = reference[:, :width]
            sums[index] += (
                float(functional.nll_loss(log_q, following[counts], reduction="sum")),
                float((log_p.exp() * (log_p - log_q[:, :width])).sum()),
                float((reference.argmax(dim=-1) == log_q.argmax(dim=-1)).sum()),
            )
    if tokens == 0:
        raise InvalidArgument(f"{source.spec}: nothing to measure, got {len(rows)} rows without a predicted token")
    size = bytes_per_token(source, rows) or 1.0
    return [
        ComparedText(
            loss=loss / tokens,
            perplexity=math.exp(min(loss / tokens, 700.0)),
            bits_per_byte=loss / tokens / math.log(2) / size,
            kl=kl / tokens,
            agreement=agreeing / tokens,
            label_bytes_per_token=_label_bytes_per_token(model.run),
        )
        for model, (loss, kl, agreeing) in zip(models, sums, strict=True)
    ]


def _label_bytes_per_token(run: RunRecord | None) -> float | None:
    """Return the size of the labels of a run in bytes per token; None without labels or in runs that do not tell."""
    if run is None or run.labels is None or run.labels.bytes_per_row is None or run.metrics is None:
        return None
    tokens = run.metrics.held_out_tokens
    return run.labels.bytes_per_row * run.metrics.held_out_rows / tokens if tokens else None


def mean_of(group: Sequence[ComparedText]) -> ComparedText:
    """Return the means of the figures of several runs.

    Args:
        group: Figures of the runs.
    """
    names = ("loss", "perplexity", "bits_per_byte", "kl", "agreement")
    return replace(group[0], **{name: statistics.mean(getattr(figures, name) for figures in group) for name in names})
