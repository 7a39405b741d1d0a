"""``sl.merge``: the rows of several stores in one, checked against their teacher if it is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from softlabels.errors import InvalidArgument
from softlabels.generation.row_plan import RowPlan
from softlabels.generation.settings import Settings
from softlabels.generation.stored_rows import check_copied
from softlabels.generation.text_data import open_for_teacher, rows_of_batch
from softlabels.models import Model, ModelLike, as_model
from softlabels.sources import DataLike, Source
from softlabels.sources.request import DataOptions, with_data_options
from softlabels.store import Merged, RowCopier, check_digests, open_store
from softlabels.store import merge as merge_stores
from softlabels.store.storage.storage import Location
from softlabels.text.options import TextOptions


@with_data_options
def merge(
    stores: Sequence[Location],
    out: Location,
    *,
    conflicts: str = "error",
    teacher: ModelLike | None = None,
    data: Sequence[DataLike] = (),
    text: TextOptions | None = None,
    batch_size: int = Settings.batch_size,
    device: str | None = None,
    digests: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    **columns: Unpack[DataOptions],
) -> Merged:
    """Write a store with the rows of several: the union by key and view, in their order. Resumes after an interruption.

    Rows that stores share are compared. With a teacher, up to 16 rows of each store are predicted again too: stores
    that share no row may have been made with weights that were replaced under one name.

    Args:
        stores: Locations of sealed stores by the same teacher with the same heads.
        out: Location of the new store; its format, codec and unit size are those of the first store.
        conflicts: Action if stores hold unlike labels for one row: ``error``, or keep the ``first``.
        teacher: Teacher of the stores; None: no row is predicted again.
        data: Data that the stores were made from, one or several, in any order; needed with a teacher.
        text: Options of text, as for generate.
        batch_size: Most rows that the teacher predicts at a time.
        device: Torch device of the teacher; None: an accelerator if there is one.
        digests: Digests that the snapshots of the stores must have, in the order of the stores; empty: any.
        progress: Function that is called with the numbers of rows done and of all rows.
        columns: Roles of the columns of the data; see ``softlabels.sources.open_source``.

    Raises:
        InvalidArgument: Fewer than two stores, a teacher without data, or data that holds no row of a store.
        StoreConflict: Other teachers or heads, unlike labels for one row, labels that the teacher does not predict, or
            ``out`` is something else.
        StoreCorrupt: A store is damaged.

    Example:
        >>> merge(["monday", "tuesday"], "week", teacher="run:teacher", data=["photos/"]).rows  # doctest: +SKIP
        2000
    """
    if isinstance(data, str | Path):
        data = [data]
    if (teacher is None) != (not data):
        missing = "data" if not data else "a teacher"
        raise InvalidArgument(f"merge: {missing} is missing, got one without the other; expected both or neither")
    check_digests(stores, digests)
    checked = 0
    if teacher is not None:
        named: ModelLike = teacher

        def load(dataset: DataLike) -> tuple[Source, Model]:
            source, loaded = open_for_teacher(dataset, named, text=text, **columns)
            return source, as_model(loaded, sample=source.inputs(np.zeros(1, np.int64))).to(device)

        checked = _check(stores, data, load, batch_size)
    merged = merge_stores(stores, out, conflicts=conflicts, progress=progress)
    return replace(merged, checked_rows=checked)


def _check(
    stores: Sequence[Location],
    data: Sequence[DataLike],
    load: Callable[[DataLike], tuple[Source, Model]],
    batch_size: int,
) -> int:
    """Predict a few rows of each store again; return their number."""
    opened = [open_store(path) for path in stores]
    first = opened[0].descriptor
    copiers = [RowCopier([store], dict(first.heads), first.teacher, first.inputs) for store in opened]
    counts = [0] * len(copiers)
    for dataset in data:
        source, model = load(dataset)
        rows = rows_of_batch(source, batch_size)
        for index, copier in enumerate(copiers):
            counts[index] += sum(check_copied(copier, RowPlan(source), model, rows=rows))
    for path, count in zip(stores, counts, strict=True):
        if count == 0:
            raise InvalidArgument(
                f"merge: no row of {path} is in the data, got {', '.join(map(str, data))}; expected the data that it "
                "was made from. Name it with data= too"
            )
    return sum(counts)
