"""The data of a run: which rows it trains on, what it holds out, and what names it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.keys import content_keys
from softlabels.models import Model
from softlabels.models.run_record import RunData
from softlabels.sources import DataLike, DatasetSource, Source
from softlabels.sources.opening import as_source_of_shape
from softlabels.sources.protocol import LABEL_HEAD
from softlabels.sources.request import DataOptions
from softlabels.sources.store_tokens import StoreTokens
from softlabels.sources.view_inputs import implied_size
from softlabels.store import Store, open_store
from softlabels.text.options import TextOptions
from softlabels.training.language import options_of
from softlabels.training.recipe import Recipe
from softlabels.training.splits import (
    choose_hard_labels,
    choose_rows,
    digest_of_split,
    hashed_keys,
    held_out_rule,
    sketch_of,
    split_rows,
    without_skipped,
)

BUNDLED = "digits"
"""DATA that a store may name: it is part of the package."""

BLOCK_ROWS = 4096
"""Rows that are read at a time."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The data of a run.

    Attributes:
        source: The data.
        train: Rows to train on.
        held_out: Rows to measure on.
        hard: Hard labels by row, -1 for rows without one; None without labels.
        used: Rows whose hard labels and targets are used, (rows,) bool; those that measure the result are. None: all.
        record: Description of the data.
    """

    source: Source
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    hard: NDArray[np.int64] | None
    record: RunData
    used: NDArray[np.bool_] | None = None


def open_data(
    data: DataLike | None,
    labels: Store | Model | None = None,
    *,
    text: TextOptions | None = None,
    **options: Unpack[DataOptions],
) -> Source:
    """Return a source.

    A store is untrusted: the data that it names is not opened unless it is the bundled digits.

    Args:
        data: Anything ``as_source`` takes. Images of several sizes get the size that the labels were made from, if none
            is chosen. None: what the labels were made from, such as the token ids of a store of
            text. Hard labels are numbered by name as the soft ones are.
        labels: Soft labels, or a live teacher.
        text: Options of text; see ``softlabels.sources.open_source``.
        options: Roles of columns; see there.

    Raises:
        InvalidArgument: Data is needed; names what the store says.
        DataNotFound: There is no such file.
        InvalidData: The data cannot be used, or has other classes than the labels.
    """
    if data is None and isinstance(labels, Store) and labels.inputs is not None:
        return StoreTokens(labels)
    if data is None:
        named = labels.descriptor.data.spec if isinstance(labels, Store) else "none"
        if named != BUNDLED:
            raise InvalidArgument(
                f"data: the inputs are needed, got none; expected data with the rows of the labels. The store says "
                f"that they were made from {named!r}; if you trust that, name it with data="
            )
        data = BUNDLED
    views = labels.descriptor.views if isinstance(labels, Store) else None
    if views is not None and getattr(data, "size", None) is None and "size" not in options:
        options["size"] = implied_size(views)
    if not isinstance(data, Source):
        text = options_of(labels, text)
    shape = labels.descriptor.data.shape if isinstance(labels, Store) else None
    source = as_source_of_shape(data, shape, text=text, **options)
    names = _class_names(labels)
    return source if names is None or source.columns.label is None else source.with_class_names(names)


def _class_names(labels: Store | Model | None) -> tuple[str, ...] | None:
    """Return the names of the classes that soft labels are for; None if they are not recorded."""
    if isinstance(labels, Store):
        return labels.descriptor.data.class_names or None
    return labels.run.data.class_names if labels is not None and labels.run is not None else None


def open_labels(labels: Store | Model | str | Path) -> Store | Model:
    """Return a store or a live teacher.

    Args:
        labels: The labels, or the path of their store.

    Raises:
        StoreNotFound: There is no sealed store.
    """
    return open_store(labels) if isinstance(labels, str | Path) else labels


def prepare(source: Source, recipe: Recipe, labels: Store | Model | None = None) -> Prepared:
    """Return the data of a run with its description.

    Args:
        source: The data.
        recipe: Options of the run.
        labels: Soft labels, or a live teacher; rows that were skipped when a store was made are left out.

    Raises:
        InvalidData: No rows to train on.
        InvalidArgument: Fewer rows have a hard label than the recipe uses.
    """
    train, held_out = split_rows(source)
    if isinstance(labels, Store):
        train, held_out = (without_skipped(rows, source, labels) for rows in (train, held_out))
    if len(train) == 0:
        raise InvalidData(f"{source.spec}: no rows to train on, got 0 in the split train; expected some")
    hard = choose_hard_labels(source, train, recipe)
    used = None if recipe.hard_labels is None else choose_rows(source, train, hard, recipe)
    rule = held_out_rule(source)
    record = RunData(
        spec=source.spec,
        fingerprint=source.fingerprint,
        rows=len(source),
        inputs=source.columns.inputs,
        label=source.columns.label,
        shape=source.input_shape,
        dtype=str(source.input_dtype),
        class_names=source.class_names,
        hard_labels=_digest_of_labels(source),
        split=digest_of_split(train, held_out),
        content=_digest_of_content(source),
        held_out=replace(
            rule, rows=len(held_out), trained_rows=len(train), sketch=sketch_of(hashed_keys(source)[train])
        ),
    )
    return Prepared(source=source, train=train, held_out=held_out, hard=hard, record=record, used=used)


def _digest_of_labels(source: Source) -> str | None:
    """Return a digest of all hard labels and targets; None without any."""
    hasher = blake3(b"softlabels hard labels 1\0")
    others = [name for name in source.targets if name != LABEL_HEAD]
    if source.columns.label is None and not others:
        return None
    for start in range(0, len(source), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(source)), dtype=np.int64)
        labels = source.labels(rows)
        if labels is not None:
            hasher.update(labels.astype("<i8").tobytes())
        for name in others:
            values = source.target(name, rows)
            hasher.update(np.ascontiguousarray(values).tobytes())
    return str(hasher.hexdigest())


def _digest_of_content(source: Source) -> str | None:
    """Return a digest of all inputs if ids name the rows; None if their keys are of the content already.

    Examples of a dataset are not covered: they may be augmented anew each time.
    """
    if source.columns.id is None or isinstance(source, DatasetSource):
        return None
    hasher = blake3(b"softlabels inputs 1\0")
    for start in range(0, len(source), BLOCK_ROWS):
        inputs = source.inputs(np.arange(start, min(start + BLOCK_ROWS, len(source)), dtype=np.int64))
        if not isinstance(inputs, np.ndarray):
            return None
        hasher.update(content_keys(inputs).tobytes())
    return str(hasher.hexdigest())
