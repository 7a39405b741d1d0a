"""Verbs of generation: ``generate`` labels a dataset, ``estimate`` times a batch, ``sample`` predicts a few rows."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Unpack

import numpy as np

from softlabels.generation.background_writer import BackgroundWriter
from softlabels.generation.bad_rows import usable_rows
from softlabels.generation.batches import batches_of
from softlabels.generation.engine import ProgressReport, Work
from softlabels.generation.engines import engine_of
from softlabels.generation.output_store import (
    encodings_of,
    interruption,
    open_output,
    plan_store,
    summarize,
    tokenizer_document,
)
from softlabels.generation.pilot import timed_predictions
from softlabels.generation.preparation import prepare
from softlabels.generation.ranks import ALONE, find_rank
from softlabels.generation.results import Estimate, Generated, encoding_text
from softlabels.generation.settings import Codec, Settings, ShardFormat
from softlabels.generation.stored_rows import check_copied, check_resumed
from softlabels.models import ModelLike
from softlabels.sources import DataLike
from softlabels.sources.request import DataOptions, with_data_options
from softlabels.store import check_digests, create_or_open, open_store
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.storage import Location
from softlabels.text.options import TextOptions

DEFAULTS = Settings()

LOGGER = logging.getLogger(__name__)


@with_data_options
def generate(
    data: DataLike,
    *,
    teacher: ModelLike,
    out: Location,
    encoding: str | Mapping[str, str] | None = DEFAULTS.encoding,
    temperatures: Sequence[float] = DEFAULTS.temperatures,
    shard_format: ShardFormat = DEFAULTS.shard_format,
    codec: Codec = DEFAULTS.codec,
    unit_rows: int | None = DEFAULTS.unit_rows,
    batch_size: int = DEFAULTS.batch_size,
    device: str | None = DEFAULTS.device,
    gate: bool = DEFAULTS.gate,
    extra_classes: bool = DEFAULTS.extra_classes,
    seed: int = DEFAULTS.seed,
    teacher_version: str | None = DEFAULTS.teacher_version,
    engine: str | None = DEFAULTS.engine,
    processes: int | None = DEFAULTS.processes,
    skip_bad: int | None = DEFAULTS.skip_bad,
    text: TextOptions | None = None,
    chosen: bool = DEFAULTS.chosen,
    hidden: Sequence[int] = DEFAULTS.hidden,
    written_by: str | None = DEFAULTS.written_by,
    views: int | None = DEFAULTS.views,
    augment: str | None = DEFAULTS.augment,
    downsample: int | Mapping[str, int] = DEFAULTS.downsample,
    reuse: Sequence[Location] = (),
    digests: Sequence[str] = (),
    progress: ProgressReport | None = None,
    **columns: Unpack[DataOptions],
) -> Generated:
    """Label ``data`` with ``teacher`` and commit the labels to the store at ``out``.

    Units that are committed are skipped, so the same call resumes a run that was interrupted. A few of their rows are
    predicted again first, to be sure that the teacher is the same.

    Args:
        data: DATA specification, path, source, arrays or data set (see softlabels.sources.as_source).
        teacher: MODEL specification, Model, ``torch.nn.Module``, or any callable from a batch of inputs to a tensor or
            to a mapping of heads to tensors.
        out: Directory of the store; created if it does not exist.
        encoding: Encoding of the labels; a mapping chooses it by head. See Settings.
        temperatures: Temperatures at which the mass of unlisted classes is stored.
        shard_format: File format of the shards, ``zarr`` or ``parquet``.
        codec: Compression of the shards, ``zstd`` or ``lz4``.
        unit_rows: Rows committed at a time; None: from the size of a row.
        batch_size: Rows that the teacher predicts at a time.
        device: Torch device of the teacher; None: an accelerator if there is one.
        gate: If True, check the teacher's outputs for a few rows first, and some rows of later batches.
        extra_classes: If True, the teacher may know classes that the hard labels do not show.
        seed: Seed of everything that is drawn.
        teacher_version: Version of the teacher that its code and weights do not show; part of its identity.
        engine: Name of the engine that runs the teacher; None: ``torchrun`` where a launcher started several
            processes, else ``local``.
        processes: Processes of the engines local and ray; None: 1, and with ray one per GPU or node.
        skip_bad: Rows that may be left without labels because they cannot be read or the teacher fails on them; None:
            such a row is an error.
        text: Options of text, such as ``sl.TextOptions(pack=256)``; None: the defaults, if the teacher has a tokenizer.
        chosen: If True, store the log-probability of the text's own next token too, as head ``chosen``.
        hidden: Layers whose states are stored too, as heads ``hidden_K``; negative ones count from the last.
        written_by: Digest or name of the model that wrote the text; None if unknown.
        views: Augmented views of each image to label; None: the images as they are.
        augment: Policy of the views, such as ``randcrop,flip,color``; see softlabels.views.parse_policy.
        downsample: Height and width in pixels of the squares whose mean distribution is stored, of every head with an
            output per pixel, or by head; 1: every pixel is stored.
        reuse: Sealed stores of the same teacher with the same heads; rows they hold are copied.
        digests: Digests that the snapshots of the stores to reuse must have, in the order of the stores; empty: any.
        progress: Callback that receives the rows done and the rows of the store.
        columns: Roles of the columns of the data, and the ``size`` of images and views in pixels; see
            ``softlabels.sources.open_source``.

    Returns:
        Result of the run, with the state of the store.

    Raises:
        InvalidArgument: A specification or setting is invalid.
        InvalidData: The data has no rows.
        InvalidLogits: An output is NaN, infinite or of another shape; committed units stay in the store.
        UnreadableRow: A row of the data cannot be read.
        TooManyBadRows: More rows cannot be labelled than ``skip_bad`` allows; committed units stay in the store.
        ModelFailed: The code of the teacher raised an error.
        TeacherRejected: The outputs cannot be labels.
        WorkerDied: Worker processes end again and again before they have committed a unit.
        StoreConflict: ``out`` holds another store, other files, or labels of another teacher; or a store to reuse does.
        StoreCorrupt: A store to reuse is damaged, or has another digest.

    Example:
        >>> import softlabels as sl
        >>> result = sl.generate("digits", teacher=lambda x: x.flatten(1)[:, 10:20].float(), out="labels")
        >>> result.rows, result.encoding
        (1797, 'dense:f16')
    """
    settings = Settings(
        encoding=encoding,
        temperatures=tuple(temperatures),
        shard_format=shard_format,
        codec=codec,
        unit_rows=unit_rows,
        batch_size=batch_size,
        device=device,
        gate=gate,
        extra_classes=extra_classes,
        seed=seed,
        teacher_version=teacher_version,
        engine=engine,
        processes=processes,
        skip_bad=skip_bad,
        chosen=chosen,
        hidden=tuple(hidden),
        written_by=written_by,
        views=views,
        augment=augment,
        downsample=downsample,
    )
    return _label(data, teacher, out, settings, text=text, reuse=reuse, digests=digests, progress=progress, **columns)


def _label(
    data: DataLike,
    teacher: ModelLike,
    out: Location,
    settings: Settings,
    *,
    text: TextOptions | None,
    reuse: Sequence[Location],
    digests: Sequence[str],
    progress: ProgressReport | None,
    **columns: Unpack[DataOptions],
) -> Generated:
    """Label data with settings; see ``generate``."""
    open_storage(out).check_writable()
    check_digests(reuse, digests)
    rank = find_rank(os.environ) or ALONE
    run = engine_of(settings.engine or ("torchrun" if rank.count > 1 else "local")).run
    plan, model, settings = prepare(data, teacher, settings, text, rank=rank, out=out, **columns)
    reused = [open_store(path, digest=pin) for path, pin in zip_longest(reuse, digests)]
    store, copier = open_output(out, plan, model, settings, reused)
    check_resumed(store, plan, model, rows=settings.batch_size)
    if copier is not None:
        check_copied(copier, plan, model, rows=settings.batch_size)
    LOGGER.info("labelling %s with %s into %s: %d rows", plan.source.spec, model.spec, out, len(plan))
    began = time.perf_counter()
    work = Work(plan=plan, teacher=model, store=store, settings=settings, copier=copier)
    try:
        labelled = run(work, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(interruption(store)) from None
    seconds = time.perf_counter() - began
    return replace(summarize(store, new_units=labelled.units, seconds=seconds), reused_rows=labelled.copied_rows)


def estimate(
    data: DataLike, *, teacher: ModelLike, settings: Settings = DEFAULTS, text: TextOptions | None = None
) -> Estimate:
    """Return the cost of ``generate``: one batch is predicted, timed, and written to a temporary store.

    Args:
        data: As for generate.
        teacher: As for generate.
        settings: Settings of the run.
        text: As for generate.

    Raises:
        SoftLabelsError: As generate.
    """
    plan, model, settings = prepare(data, teacher, settings, text)
    descriptor, codebooks = plan_store(plan, model, settings, {})
    rows = np.arange(min(settings.batch_size, len(plan)), dtype=np.int64)
    if settings.skip_bad is not None:
        rows = usable_rows(plan, model, rows)
    model.predict_sliced(plan.inputs(rows))  # the first pass allocates and compiles
    inputs, predictions, seconds = timed_predictions(plan, model, rows)
    with TemporaryDirectory() as folder:
        store = create_or_open(
            Path(folder) / "sample", descriptor.for_rows(len(rows)), codebooks, tokenizer_document(plan.source)
        )
        batch = next(batches_of(plan, store, [0], len(rows), None))
        with BackgroundWriter(store) as writer:
            writer.put(batch.labelled(predictions, inputs, descriptor))
        record = store.record(0)
    in_chunks = sum(chunk.size for chunk in record.chunks)
    size = in_chunks / len(rows) * len(plan) + (record.size - in_chunks) * descriptor.units
    encodings = encodings_of(descriptor.heads)
    return Estimate(
        rows=len(plan),
        units=descriptor.units,
        unit_rows=descriptor.unit_rows,
        encoding=encoding_text(encodings),
        encodings=encodings,
        bytes=round(size),
        bytes_per_row=size / len(plan),
        seconds=seconds * len(plan) / len(rows),
        rows_per_second=len(rows) / seconds,
    )
