"""The store that a run writes: its descriptor, opening it, and its state after the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softlabels.encodings import Codebook
from softlabels.errors import StoreConflict
from softlabels.generation.heads import existing_heads, plan_heads, requested_heads
from softlabels.generation.listed_heads import encoding_of, listed_heads
from softlabels.generation.pilot import TeacherPilot
from softlabels.generation.results import Generated, encoding_text
from softlabels.generation.row_plan import RowPlan
from softlabels.generation.settings import Settings
from softlabels.generation.text_data import CHOSEN, CHOSEN_HEAD, text_of
from softlabels.labels import Head
from softlabels.models import Model
from softlabels.planning.container import USUAL_POSITIONS
from softlabels.sources import Source
from softlabels.store import (
    DataRecord,
    Descriptor,
    RowCopier,
    Store,
    StoreWriter,
    TeacherRecord,
    create_or_open,
    open_store,
    seal,
)
from softlabels.store.storage.storage import Location

MAX_COVERS = 16
"""Parts of a teacher that a store lists."""


def plan_store(
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


def tokenizer_document(source: Source) -> bytes | None:
    """Return the tokenizer of a text as a store holds it; None for other data.

    Args:
        source: The data.
    """
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


def open_output(
    out: Location, plan: RowPlan, model: Model, settings: Settings, reused: Sequence[Store]
) -> tuple[StoreWriter, RowCopier | None]:
    """Return the store to write to, a new one or the one that exists, and the stores that rows are copied from.

    Args:
        out: Location of the store.
        plan: Rows of the store.
        model: The teacher.
        settings: Settings of the run.
        reused: Sealed stores whose rows are copied.

    Raises:
        InvalidArgument: An encoding, a temperature or a size is invalid for this teacher.
        StoreConflict: ``out`` holds another store, or one of ``reused`` has labels of another kind.
    """
    existing = existing_heads(out) or (reused[0].heads if reused else {})
    descriptor, fitted = plan_store(plan, model, settings, existing)
    codebooks = fitted or (reused[0].codebooks() if reused else {})
    copier = (
        RowCopier(reused, dict(descriptor.heads), descriptor.teacher, descriptor.inputs, descriptor.views)
        if reused
        else None
    )
    try:
        return create_or_open(out, descriptor, codebooks, tokenizer_document(plan.source)), copier
    except StoreConflict:
        # Another generator may have created the store since, with a codebook that it fitted itself, and whose last bits
        # differ on other hardware. Its codebook counts.
        if not fitted or not existing_heads(out):
            raise
    descriptor, _ = plan_store(plan, model, settings, existing_heads(out))
    return create_or_open(out, descriptor, tokenizer=tokenizer_document(plan.source)), copier


def summarize(store: StoreWriter, *, new_units: int, seconds: float) -> Generated:
    """Seal a store if every unit is committed, and return its state.

    Args:
        store: The store.
        new_units: Units that this run committed.
        seconds: Wall time of this run.

    Raises:
        StoreCorrupt: A file of the store is damaged.
    """
    descriptor = store.descriptor
    encodings = encodings_of(descriptor.heads)
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


def interruption(store: StoreWriter) -> str:
    """Return the message of a run that was interrupted.

    Args:
        store: The store.
    """
    units = store.descriptor.units
    committed = units - sum(1 for _ in store.missing())
    return f"Interrupted. {store.storage} holds {committed:,} of {units:,} units: run the same command again to resume."


def encodings_of(heads: Mapping[str, Head]) -> dict[str, str]:
    """Return the encoding of each head.

    Args:
        heads: Heads by name.
    """
    return {name: head.encoding for name, head in heads.items()}
