"""Verbs of generation: ``generate`` labels a dataset, ``estimate`` times a batch, ``sample`` predicts a few rows."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

from softlabels.encodings import Codebook
from softlabels.errors import InvalidArgument, InvalidData, StoreConflict
from softlabels.generation.background_writer import BackgroundWriter
from softlabels.generation.bad_rows import FAILURES, usable_rows
from softlabels.generation.batches import batches_of
from softlabels.generation.engine import ProgressReport, Work
from softlabels.generation.engines import engine_of
from softlabels.generation.gate import check_teacher
from softlabels.generation.heads import existing_heads, plan_heads, requested_heads, store_appears
from softlabels.generation.listed_heads import encoding_of, listed_heads, require_logits
from softlabels.generation.pilot import SAMPLE_ROWS, TeacherPilot, timed_predictions
from softlabels.generation.ranks import ALONE, Rank, find_rank
from softlabels.generation.results import Estimate, Generated, encoding_text
from softlabels.generation.row_plan import RowPlan
from softlabels.generation.settings import Codec, Settings, ShardFormat
from softlabels.generation.stored_rows import check_copied, check_resumed
from softlabels.generation.text_data import CHOSEN, CHOSEN_HEAD, check_text, open_data, rows_of_batch, text_of
from softlabels.labels import DISTRIBUTIONS, Head
from softlabels.models import Model, ModelLike, as_model
from softlabels.models.hidden_states import with_hidden_states
from softlabels.planning import Sample
from softlabels.planning.container import USUAL_POSITIONS
from softlabels.sources import Source
from softlabels.store import (
    DataRecord,
    Descriptor,
    RowCopier,
    Store,
    StoreWriter,
    TeacherRecord,
    check_digests,
    create_or_open,
    open_store,
    seal,
)
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.storage import Location
from softlabels.text.options import TextOptions

DataLike: TypeAlias = Any
"""Everything that ``as_source`` takes: a DATA specification, path, source, arrays, or a data set with ids."""

MAX_COVERS = 16
"""Parts of a teacher that a store lists."""

MAX_TRIED = 32
"""First rows that are tried until one can be labelled, where bad rows may be skipped."""

DEFAULTS = Settings()

LOGGER = logging.getLogger(__name__)


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
    size: int | None = None,
    reuse: Sequence[Location] = (),
    digests: Sequence[str] = (),
    progress: ProgressReport | None = None,
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
        text: Options of text, such as ``TextOptions(pack=256)``; None: the defaults, if the teacher has a tokenizer.
        chosen: If True, store the log-probability of the text's own next token too, as head ``chosen``.
        hidden: Layers whose states are stored too, as heads ``hidden_K``; negative ones count from the last.
        written_by: Digest or name of the model that wrote the text; None if unknown.
        views: Augmented views of each image to label; None: the images as they are.
        augment: Policy of the views, such as ``randcrop,flip,color``; see softlabels.views.parse_policy.
        downsample: Height and width in pixels of the squares whose mean distribution is stored, of every head with an
            output per pixel, or by head; 1: every pixel is stored.
        size: Height and width of images and views in pixels; None: their own size.
        reuse: Sealed stores of the same teacher with the same heads; rows they hold are copied.
        digests: Digests that the snapshots of the stores to reuse must have, in the order of the stores; empty: any.
        progress: Callback that receives the rows done and the rows of the store.

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
    open_storage(out).check_writable()
    check_digests(reuse, digests)
    rank = find_rank(os.environ) or ALONE
    run = engine_of(settings.engine or ("torchrun" if rank.count > 1 else "local")).run
    plan, model, settings = _prepare(data, teacher, settings, text, rank=rank, out=out, size=size)
    reused = [open_store(path, digest=pin) for path, pin in zip_longest(reuse, digests)]
    store, copier = _open(out, plan, model, settings, reused)
    check_resumed(store, plan, model, rows=settings.batch_size)
    if copier is not None:
        check_copied(copier, plan, model, rows=settings.batch_size)
    LOGGER.info("labelling %s with %s into %s: %d rows", plan.source.spec, model.spec, out, len(plan))
    began = time.perf_counter()
    work = Work(plan=plan, teacher=model, store=store, settings=settings, copier=copier)
    try:
        labelled = run(work, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stopped(store)) from None
    seconds = time.perf_counter() - began
    return replace(_summary(store, new_units=labelled.units, seconds=seconds), reused_rows=labelled.copied_rows)


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
    plan, model, settings = _prepare(data, teacher, settings, text)
    descriptor, codebooks = describe_store(plan, model, settings, {})
    rows = np.arange(min(settings.batch_size, len(plan)), dtype=np.int64)
    if settings.skip_bad is not None:
        rows = usable_rows(plan, model, rows)
    model.predict_sliced(plan.inputs(rows))  # the first pass allocates and compiles
    inputs, predictions, seconds = timed_predictions(plan, model, rows)
    with TemporaryDirectory() as folder:
        store = create_or_open(
            Path(folder) / "sample", descriptor.for_rows(len(rows)), codebooks, _tokenizer_document(plan.source)
        )
        batch = next(batches_of(plan, store, [0], len(rows), None))
        with BackgroundWriter(store) as writer:
            writer.put(batch.labelled(predictions, inputs, descriptor))
        record = store.record(0)
    in_chunks = sum(chunk.size for chunk in record.chunks)
    size = in_chunks / len(rows) * len(plan) + (record.size - in_chunks) * descriptor.units
    encodings = _encodings(descriptor.heads)
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


def sample(
    data: DataLike,
    *,
    teacher: ModelLike,
    settings: Settings = DEFAULTS,
    head: str | None = None,
    rows: int = SAMPLE_ROWS,
) -> Sample:
    """Return predictions for a few rows, to plan with.

    Args:
        data: As for generate.
        teacher: As for generate.
        settings: Settings of the run; its temperatures, format and codec are planned for.
        head: Name of the head, a distribution; None: the first one.
        rows: Number of rows.

    Raises:
        InvalidArgument: The head does not exist or is no distribution.
        SoftLabelsError: As generate.
    """
    plan, model, settings = _prepare(data, teacher, settings, None)
    require_logits(model)
    heads = requested_heads(model.heads, None, settings.temperatures, settings.downsample)
    usable = [name for name, one in heads.items() if one.kind in DISTRIBUTIONS]
    name = head if head is not None else next(iter(usable), None)
    if name not in usable:
        raise InvalidArgument(f"head: no distribution, got {head!r}; expected {', '.join(usable) or 'none is there'}")
    return TeacherPilot(plan, model, settings, rows).sample(name, heads[name])


def _prepare(
    data: DataLike,
    teacher: ModelLike,
    settings: Settings,
    text: TextOptions | None,
    *,
    rank: Rank = ALONE,
    out: Location | None = None,
    size: int | None = None,
) -> tuple[RowPlan, Model, Settings]:
    """Return the rows to label, the teacher on its device once the gate has let it pass, and settings for the data."""
    source, teacher = open_data(data, teacher, text=text, size=size)
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


def describe_store(
    plan: RowPlan, model: Model, settings: Settings, existing: Mapping[str, Head]
) -> tuple[Descriptor, Mapping[str, Codebook]]:
    """Return the descriptor of the store that a run writes, and the codebooks it needs.

    Args:
        plan: Rows of the store.
        model: The teacher.
        settings: Settings of the run.
        existing: Heads of the store that is resumed, or whose rows are copied; see plan_heads.

    Raises:
        InvalidArgument: An encoding, a temperature or a size is invalid for this teacher.
    """
    heads = dict(model.heads) | ({CHOSEN: CHOSEN_HEAD} if settings.chosen else {})
    named = requested_heads(heads, encoding_of(model, settings), settings.temperatures, settings.downsample)
    requested = listed_heads(named, model)
    planned = plan_heads(requested, existing, TeacherPilot(plan, model, settings), seed=settings.seed)
    unit_rows, chunk_rows = planned.geometry(len(plan), settings.unit_rows, positions=_positions(plan.source))
    descriptor = Descriptor(
        rows=len(plan),
        unit_rows=unit_rows,
        chunk_rows=chunk_rows,
        heads=planned.heads,
        teacher=_teacher_record(model, settings.teacher_version),
        data=_data_record(plan.source),
        shard_format=settings.shard_format,
        codec=settings.codec,
        seed=settings.seed,
        inputs=None if (text := text_of(plan.source)) is None else text.token_inputs(settings.written_by),
        views=None if plan.replay is None else plan.replay.record,
    )
    return descriptor, planned.codebooks


def _positions(source: Source) -> int:
    """Return the positions of a ragged row, for the size of units."""
    return USUAL_POSITIONS if text_of(source) is None else source.input_shape[0]


def _tokenizer_document(source: Source) -> bytes | None:
    text = text_of(source)
    return None if text is None else text.tokenizer.to_bytes()


def _teacher_record(model: Model, version: str | None) -> TeacherRecord:
    covers = model.digest_covers
    if len(covers) > MAX_COVERS:
        covers = (*covers[: MAX_COVERS - 1], f"{len(covers) - MAX_COVERS + 1} other parts")
    preprocessing = None if model.preprocessing is None else model.preprocessing.to_json()
    return TeacherRecord(
        spec=model.spec, digest=model.digest, covers=tuple(covers), version=version, preprocessing=preprocessing
    )


def _data_record(source: Source) -> DataRecord:
    columns = source.columns
    return DataRecord(
        spec=source.spec,
        fingerprint=source.fingerprint,
        rows=len(source),
        columns=columns.inputs,
        ignored=tuple(column.name for column in columns.unused),
        label=columns.label,
        dtype=str(source.input_dtype),
        shape=tuple(source.input_shape),
        classes=source.classes,
        class_names=source.class_names or (),
    )


def _open(
    out: Location, plan: RowPlan, model: Model, settings: Settings, reused: Sequence[Store]
) -> tuple[StoreWriter, RowCopier | None]:
    """Return the store to write to, a new one or the one that exists, and the stores that rows are copied from."""
    existing = existing_heads(out) or (reused[0].heads if reused else {})
    descriptor, fitted = describe_store(plan, model, settings, existing)
    codebooks = fitted or (reused[0].codebooks() if reused else {})
    copier = (
        RowCopier(reused, dict(descriptor.heads), descriptor.teacher, descriptor.inputs, descriptor.views)
        if reused
        else None
    )
    try:
        return create_or_open(out, descriptor, codebooks, _tokenizer_document(plan.source)), copier
    except StoreConflict:
        # Another generator may have created the store since, with a codebook that it fitted itself, and whose last bits
        # differ on other hardware. Its codebook counts.
        if not fitted or not existing_heads(out):
            raise
    descriptor, _ = describe_store(plan, model, settings, existing_heads(out))
    return create_or_open(out, descriptor, tokenizer=_tokenizer_document(plan.source)), copier


def _summary(store: StoreWriter, *, new_units: int, seconds: float) -> Generated:
    """Return the state of the store; seals it if every unit is committed."""
    descriptor = store.descriptor
    encodings = _encodings(descriptor.heads)
    missing = sum(1 for _ in store.missing())
    if missing == 0:
        seal(store.storage)
        sealed = open_store(store.storage)
        rows, size, snapshot, fidelities = sealed.rows, sealed.bytes, sealed.snapshot.digest, sealed.snapshot.fidelity
        skipped = sealed.snapshot.skipped
    else:
        records = [store.record(unit) for unit in store.committed_units()]
        rows, size = sum(record.rows for record in records), sum(record.size for record in records)
        snapshot, fidelities = None, {}
        skipped = sum(len(record.skipped) for record in records)
    return Generated(
        rows=rows,
        units=descriptor.units,
        new_units=new_units,
        missing_units=missing,
        seconds=seconds,
        bytes=size,
        bytes_per_row=size / rows if rows else 0.0,
        snapshot=snapshot,
        encoding=encoding_text(encodings),
        encodings=encodings,
        heads={
            name: {"kind": head.kind, "classes": head.classes, "encoding": head.encoding}
            for name, head in descriptor.heads.items()
        },
        fidelity=next(iter(fidelities.values()), None),
        fidelities=dict(fidelities),
        skipped_rows=skipped,
    )


def _stopped(store: StoreWriter) -> str:
    units = store.descriptor.units
    committed = units - sum(1 for _ in store.missing())
    return f"Interrupted. {store.storage} holds {committed:,} of {units:,} units: run the same command again to resume."


def _encodings(heads: Mapping[str, Head]) -> dict[str, str]:
    return {name: head.encoding for name, head in heads.items()}
