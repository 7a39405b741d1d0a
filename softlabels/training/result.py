"""The result of a run: figures on its held-out rows."""

from __future__ import annotations

from softlabels.errors import InvalidArgument
from softlabels.models import Model
from softlabels.models.run_record import RunMetrics
from softlabels.sources.store_tokens import StoreTokens
from softlabels.store import Store
from softlabels.training import language, language_figures
from softlabels.training.distributed import Workers
from softlabels.training.run_data import Prepared
from softlabels.training.tasks import Objectives, Task
from softlabels.training.validation import Validation


def measure_run(model: Model, prepared: Prepared, task: Task, steps: int) -> RunMetrics:
    """Return the result of a run; without figures if no held-out row can be measured.

    Args:
        model: The trained model.
        prepared: Data of the run.
        task: Heads and labels of the run.
        steps: Number of optimiser steps.
    """
    if language.is_language(prepared.source):
        return _measure_language(model, prepared, steps, task.store)
    rows = len(prepared.held_out)
    try:
        validation = Validation(model, prepared, task, Objectives(task.objectives(model)), Workers())
    except InvalidArgument:
        return RunMetrics(steps=steps, held_out_rows=rows)
    figures = validation.measure()
    prefix = "" if len(task.heads) == 1 else "logits."
    return RunMetrics(
        steps=steps,
        held_out_rows=rows,
        accuracy=figures.get(f"{prefix}accuracy"),
        kl=figures.get(f"{prefix}kl"),
        agreement=figures.get(f"{prefix}agreement"),
        figures=figures,
    )


def _measure_language(model: Model, prepared: Prepared, steps: int, store: Store | None) -> RunMetrics:
    """Return the result of a run on text."""
    rows = prepared.held_out
    sample = None if model.tokenizer is None else language_figures.sample_text(model, model.tokenizer)
    if len(rows) == 0:
        return RunMetrics(steps=steps, sample=sample)
    # Labels are compared row by row, so the rows of the data must be those of the store.
    labels = store if store is not None and isinstance(prepared.source, StoreTokens) else None
    figures = language_figures.measure_text(model, prepared.source, rows, labels)
    return RunMetrics(
        steps=steps,
        held_out_rows=len(rows),
        held_out_tokens=figures.tokens,
        perplexity=figures.perplexity,
        bits_per_byte=figures.bits_per_byte,
        kl=figures.kl,
        agreement=figures.agreement,
        sample=sample,
    )
