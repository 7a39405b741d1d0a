"""Preparation of a run: the rows to label, and the teacher behind the gate."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Unpack

import numpy as np

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.generation.bad_rows import FAILURES, usable_rows
from softlabels.generation.gate import check_teacher
from softlabels.generation.heads import store_appears
from softlabels.generation.ranks import ALONE, Rank
from softlabels.generation.row_plan import RowPlan
from softlabels.generation.settings import Settings
from softlabels.generation.text_data import check_text, open_for_teacher, rows_of_batch, text_of
from softlabels.models import Model, ModelLike, as_model
from softlabels.models.hidden_states import with_hidden_states
from softlabels.sources import DataLike, Source
from softlabels.sources.request import DataOptions
from softlabels.store.storage.storage import Location
from softlabels.text.options import TextOptions

MAX_TRIED = 32
"""First rows that are tried until one can be labelled, where bad rows may be skipped."""


def prepare(
    data: DataLike,
    teacher: ModelLike,
    settings: Settings,
    text: TextOptions | None,
    *,
    rank: Rank = ALONE,
    out: Location | None = None,
    **columns: Unpack[DataOptions],
) -> tuple[RowPlan, Model, Settings]:
    """Return the rows to label, the teacher on its device once the gate has let it pass, and settings for the data.

    Args:
        data: DATA specification, path, source, arrays or data set.
        teacher: MODEL specification, model or callable.
        settings: Settings of the run.
        text: Options of text; None: the defaults, if the teacher has a tokenizer.
        rank: Rank of this process.
        out: Location of the store; the gate is skipped by later ranks once it exists. None: there will be none.
        columns: Roles of the columns of the data, and the size of images; see ``softlabels.sources.open_source``.

    Raises:
        InvalidArgument: A specification or setting is invalid.
        InvalidData: The data has no rows.
        TeacherRejected: The outputs cannot be labels.
        ModelFailed: The code of the teacher raised an error.
    """
    source, teacher = open_for_teacher(data, teacher, text=text, **columns)
    if len(source) == 0:
        raise InvalidData(f"{source.spec}: no rows, so there is nothing to label")
    tries = 1 if settings.skip_bad is None else MAX_TRIED
    model = _load(source, teacher, tries=tries).to(settings.device or rank.device())
    check_text(source, model)
    if settings.hidden:
        model = with_hidden_states(model, settings.hidden)
    if settings.chosen and (text_of(source) is None or model.target != "next"):
        raise InvalidArgument(f"chosen: needs a teacher that predicts the next token of a text, got {model.spec}")
    settings = replace(settings, batch_size=rows_of_batch(source, settings.batch_size))
    # The store of a run of several ranks appears when the first of them has passed the gate.
    if settings.gate and (rank.index == 0 or out is None or not store_appears(out)):
        check_teacher(
            model,
            source,
            extra_classes=settings.extra_classes,
            batch_size=settings.batch_size,
            usable=None if settings.skip_bad is None else partial(usable_rows, RowPlan(source), model),
        )
    return RowPlan.of(source, settings), model, settings


def _load(source: Source, teacher: ModelLike, *, tries: int, row: int = 0) -> Model:
    """Return the teacher, run on the first row that can be labelled if it is code of the user."""
    try:
        return as_model(teacher, sample=source.inputs(np.array([row], np.int64)))
    except FAILURES:
        if row + 1 >= min(tries, len(source)):
            raise
    return _load(source, teacher, tries=tries, row=row + 1)
