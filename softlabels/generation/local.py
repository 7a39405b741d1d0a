"""The local engine: one process runs the teacher over the units that are missing and commits them one by one.

Three threads share the work: one fetches inputs a batch ahead, this one runs the teacher, one encodes and writes
(writing.py). The teacher waits for neither, so that a run costs what its forward passes cost (docs/performance.md).
Several processes may run this on one store; each unit is committed once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from softlabels import models
from softlabels.errors import InvalidData, StoreConflict, StoreIncomplete
from softlabels.generation.background_writer import BackgroundWriter, LabelledBatch
from softlabels.generation.gate import check_teacher
from softlabels.generation.pilot import existing_heads
from softlabels.generation.settings import HEAD, SAMPLED, Settings, describe, sample_of_teacher
from softlabels.models import Model
from softlabels.planning import Sample
from softlabels.sources import Source, open_source
from softlabels.store import Descriptor, RowCopier, Store, StoreWriter, UnitLocks, create_or_open, open_store, seal

if TYPE_CHECKING:
    from torch import Tensor

FETCHED_AHEAD = 2
"""Batches of inputs fetched before the teacher asks for them."""

Teacher: TypeAlias = "Model | str | Callable[[Tensor], Tensor]"


class ProgressReport(Protocol):
    """Called now and then with the rows done and the rows there are."""

    def __call__(self, done: int, total: int) -> None:
        """Show it."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a run of ``generate`` left behind.

    Attributes:
        rows: rows in the store.
        units: units of the plan.
        new_units: units this run committed.
        missing_units: units somebody else has yet to commit; the store is sealed when there are none.
        seconds: wall time of this run, after the teacher was loaded.
        bytes: size of the committed shards.
        bytes_per_row: the same per row.
        snapshot: digest of the sealed snapshot; None while units are missing.
        reused_rows: rows this run copied from other stores.
        encoding: of the labels.
        fidelity: how close they are to the teacher (store.fidelity.Fidelity); None while units are missing.
    """

    rows: int
    units: int
    new_units: int
    missing_units: int
    seconds: float
    bytes: int
    bytes_per_row: float
    snapshot: str | None
    encoding: str
    reused_rows: int = 0
    fidelity: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, object]:
        """As ``generate --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What generating would cost, from one timed batch."""

    rows: int
    units: int
    unit_rows: int
    encoding: str
    bytes: int
    bytes_per_row: float
    seconds: float
    rows_per_second: float

    def to_json(self) -> dict[str, object]:
        """As ``generate --dry-run --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class _Batch:
    """Rows of one unit, fetched together."""

    unit: int
    rows: NDArray[np.int64]
    keys: NDArray[np.uint8]
    last: bool
    found: NDArray[np.int64] | None

    @property
    def to_label(self) -> NDArray[np.int64]:
        """The rows the teacher is asked about."""
        return self.rows if self.found is None else self.rows[self.found < 0]


def generate(
    data: Source | str | Path,
    *,
    teacher: Teacher,
    out: str | Path,
    settings: Settings | None = None,
    reuse: Sequence[str | Path] = (),
    progress: ProgressReport | None = None,
    **options: object,
) -> Generated:
    """Label ``data`` with ``teacher`` and commit the labels to the store at ``out``.

    Units that are committed already are skipped, so the same call goes on where an earlier one stopped.

    Args:
        data: a source, or what names one (see softlabels.sources).
        teacher: a MODEL specification, a loaded model, or any callable from a batch of inputs to (B, C) logits.
        out: directory of the store; made where there is none.
        settings: how to label; or give its fields as keyword arguments.
        reuse: sealed stores by the same teacher with the same head; rows they hold, by key, are copied from there.
        progress: told the rows done now and then.
        options: fields of Settings.

    Returns:
        What the store holds now.

    Raises:
        InvalidArgument: a specification that cannot be meant.
        InvalidLogits: the teacher gave NaN, infinities or another shape; the units before are kept.
        TeacherRejected: the sanity gate refused the teacher; nothing was written.
        StoreConflict: ``out`` holds another store, or something else; or a store to reuse is of another teacher.
    """
    source, model, settings = _prepare(data, teacher, settings, options)
    if settings.gate:
        check_teacher(model, source, classes=model.classes, extra_classes=settings.extra_classes)
    reused_stores = [open_store(path) for path in reuse]
    store, donors = _open(out, source, model, settings, reused_stores)
    descriptor = store.descriptor
    missing = list(store.missing())
    reused = 0
    began = time.perf_counter()
    with store.claims() as claims, BackgroundWriter(store, HEAD, donors) as writer:
        done = len(source) - sum(len(descriptor.unit_range(unit)) for unit in missing)
        if progress is not None:
            progress(done, len(source))
        for batch, inputs in _fetch_ahead(
            source, _batches(source, store, _claimed(store, missing, claims), settings.batch_size, donors)
        ):
            logits = None if inputs is None else model.logits(inputs)
            writer.put(LabelledBatch(batch.unit, batch.rows, batch.keys, logits, batch.last, batch.found))
            done += len(batch.rows)
            reused += len(batch.rows) - len(batch.to_label)
            if progress is not None:
                progress(done, len(source))
    seconds = time.perf_counter() - began
    return replace(_summary(out, descriptor, new_units=len(writer.committed), seconds=seconds), reused_rows=reused)


def estimate(
    data: Source | str | Path, *, teacher: Teacher, settings: Settings | None = None, **options: object
) -> Estimate:
    """What ``generate`` would cost: one batch is run, encoded and written to a temporary store, and timed.

    Args:
        data: as for generate.
        teacher: as for generate.
        settings: as for generate.
        options: fields of Settings.

    Raises:
        SoftLabelsError: as generate would.
    """
    source, model, settings = _prepare(data, teacher, settings, options)
    if settings.gate:
        check_teacher(model, source, classes=model.classes, extra_classes=settings.extra_classes)
    descriptor, codebooks = describe(source, model, settings)
    rows = np.arange(min(settings.batch_size, len(source)), dtype=np.int64)
    inputs = source.inputs(rows)
    model.logits(inputs)  # the first pass allocates and compiles
    began = time.perf_counter()
    logits = model.logits(source.inputs(rows))
    logits.sum().item()  # waits for an accelerator
    seconds = time.perf_counter() - began
    with TemporaryDirectory() as folder:
        store = create_or_open(Path(folder) / "sample", descriptor.for_rows(len(rows)), codebooks)
        with BackgroundWriter(store, HEAD) as writer:
            writer.put(LabelledBatch(0, rows, source.keys(0, len(rows)), logits, last=True))
        record = store.record(0)
    in_chunks = sum(chunk.size for chunk in record.chunks)
    size = in_chunks / len(rows) * len(source) + (record.size - in_chunks) * descriptor.units
    return Estimate(
        rows=len(source),
        units=descriptor.units,
        unit_rows=descriptor.unit_rows,
        encoding=descriptor.heads[HEAD].encoding,
        bytes=round(size),
        bytes_per_row=size / len(source),
        seconds=seconds * len(source) / len(rows),
        rows_per_second=len(rows) / seconds,
    )


def sample(
    data: Source | str | Path, *, teacher: Teacher, settings: Settings | None = None, rows: int = SAMPLED
) -> Sample:
    """What a teacher says of a few rows, to plan with.

    Args:
        data: as for generate.
        teacher: as for generate.
        settings: as for generate; its temperatures and codec are planned for.
        rows: how many to ask about.

    Raises:
        SoftLabelsError: as generate would.
    """
    source, model, settings = _prepare(data, teacher, settings, {})
    if settings.gate:
        check_teacher(model, source, classes=model.classes, extra_classes=settings.extra_classes)
    return sample_of_teacher(source, model, settings, rows=rows)


def _open(
    out: str | Path, source: Source, model: Model, settings: Settings, reused: Sequence[Store]
) -> tuple[StoreWriter, RowCopier | None]:
    """The store to write to, a new one or the one there is, and where rows are copied from."""
    existing = existing_heads(out) or (reused[0].heads if reused else {})
    descriptor, fitted = describe(source, model, settings, existing)
    donors = RowCopier(reused, dict(descriptor.heads), descriptor.teacher.identity) if reused else None
    try:
        return create_or_open(out, descriptor, fitted or (reused[0].codebooks() if reused else {})), donors
    except StoreConflict:
        if not fitted or not existing_heads(out):
            raise
    # Who started at the same time and was first has fitted a codebook too; on another machine its last bits differ.
    descriptor, _ = describe(source, model, settings, existing_heads(out))
    return create_or_open(out, descriptor), donors


def _prepare(
    data: Source | str | Path, teacher: Teacher, settings: Settings | None, options: dict[str, object]
) -> tuple[Source, Model, Settings]:
    if settings is not None and options:
        raise TypeError("give settings or their fields as keyword arguments, not both")
    settings = settings or Settings(**options)  # type: ignore[arg-type]  # fields are checked by the dataclass
    source = open_source(data) if isinstance(data, str | Path) else data
    if len(source) == 0:
        raise InvalidData(f"{source.spec} has no rows, so there is nothing to label")
    model = models.as_model(teacher, sample=source.inputs(np.zeros(1, np.int64)))
    return source, model.to(settings.device), settings


def _claimed(store: StoreWriter, missing: list[int], claims: UnitLocks) -> Iterator[int]:
    """The units that are still missing when their turn comes, and that no other process on this machine is making.

    What others are at is looked at once more in the end: they may have died. What is not theirs to finish then, such as
    the unit of a process that was stopped, stays missing.
    """
    others = []
    for unit in missing:
        if not store.committed(unit):
            if claims.take(unit):
                yield unit
            else:
                others.append(unit)
    yield from (unit for unit in others if not store.committed(unit) and claims.take(unit))


def _batches(
    source: Source, store: StoreWriter, units: Iterable[int], batch_size: int, donors: RowCopier | None
) -> Iterator[_Batch]:
    """Batches of units; a batch never spans two units."""
    for unit in units:
        rows = store.descriptor.unit_range(unit)
        for start in range(rows.start, rows.stop, batch_size):
            stop = min(start + batch_size, rows.stop)
            keys = source.keys(start, stop)
            found = None if donors is None else donors.find(keys, np.zeros(len(keys), np.uint32))
            yield _Batch(unit, np.arange(start, stop, dtype=np.int64), keys, last=stop == rows.stop, found=found)


def _fetch_ahead(source: Source, batches: Iterator[_Batch]) -> Iterator[tuple[_Batch, NDArray[np.generic] | None]]:
    """Each batch with its inputs, read by a thread while the teacher is at the batch before; None for no rows."""
    with ThreadPoolExecutor(1, thread_name_prefix="softlabels-inputs") as pool:
        waiting: deque[tuple[_Batch, Future[NDArray[np.generic]] | None]] = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(source.inputs, batch.to_label) if len(batch.to_label) else None))
            if len(waiting) > FETCHED_AHEAD:
                first, inputs = waiting.popleft()
                yield first, None if inputs is None else inputs.result()
        while waiting:
            first, inputs = waiting.popleft()
            yield first, None if inputs is None else inputs.result()


def _summary(out: str | Path, descriptor: Descriptor, *, new_units: int, seconds: float) -> Generated:
    """Seal where every unit is there, and say what the store holds."""
    try:
        seal(out)
    except StoreIncomplete:
        writer = create_or_open(out, descriptor)
        missing = sum(1 for _ in writer.missing())
        return Generated(
            rows=0, units=descriptor.units, new_units=new_units, missing_units=missing, seconds=seconds,
            bytes=0, bytes_per_row=0.0, snapshot=None, encoding=descriptor.heads[HEAD].encoding,
        )  # fmt: skip
    store = open_store(out)
    return Generated(
        rows=store.rows, units=store.units, new_units=new_units, missing_units=0, seconds=seconds,
        bytes=store.bytes, bytes_per_row=store.bytes_per_row, snapshot=store.snapshot.digest,
        encoding=store.heads[HEAD].encoding, fidelity=store.snapshot.fidelity.get(HEAD),
    )  # fmt: skip
