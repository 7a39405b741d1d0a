"""The result of a run: figures on its held-out rows."""

from __future__ import annotations

from softlabels.models import Model
from softlabels.models.run_record import RunMetrics
from softlabels.sources.store_tokens import StoreTokens
from softlabels.store import Store
from softlabels.training import language
from softlabels.training.evaluation import accuracy
from softlabels.training.inputs import Prepared


def measure(model: Model, prepared: Prepared, steps: int, store: Store | None) -> RunMetrics:
    """Return the result of a run; without an accuracy if no held-out row can be measured.

    Args:
        model: The trained model.
        prepared: Data of the run.
        steps: Number of optimiser steps.
        store: Store of the soft labels; None without one.
    """
    rows = prepared.held_out
    if language.is_language(prepared.source):
        return _measure_language(model, prepared, steps, store)
    labels = prepared.source.labels(rows) if len(rows) else None
    head = next(iter(model.heads.values()))
    if labels is None or not (labels >= 0).any() or head.kind != "classes" or head.shape != ():
        return RunMetrics(steps=steps, held_out_rows=len(rows))
    return RunMetrics(steps=steps, accuracy=accuracy(model, prepared.source, rows), held_out_rows=len(rows))


def _measure_language(model: Model, prepared: Prepared, steps: int, store: Store | None) -> RunMetrics:
    """Return the result of a run on text."""
    rows = prepared.held_out
    sample = None if model.tokenizer is None else language.sample_text(model, model.tokenizer)
    if len(rows) == 0:
        return RunMetrics(steps=steps, sample=sample)
    # Labels are compared row by row, so the rows of the data must be those of the store.
    labels = store if store is not None and isinstance(prepared.source, StoreTokens) else None
    figures = language.measure(model, prepared.source, rows, labels)
    return RunMetrics(
        steps=steps,
        held_out_rows=len(rows),
        perplexity=figures.perplexity,
        bits_per_byte=figures.bits_per_byte,
        kl=figures.kl,
        agreement=figures.agreement,
        sample=sample,
    )
