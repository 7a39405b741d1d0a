"""From settings to a descriptor: what a run of ``generate`` will write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from softlabels import encodings, planning
from softlabels.encodings import Codebook
from softlabels.encodings.codebook import pilot_rows
from softlabels.errors import InvalidArgument
from softlabels.generation.pilot import with_codebook
from softlabels.labels import Head, canonical_temperatures
from softlabels.models import Model
from softlabels.sources import Source
from softlabels.store import DataRecord, Descriptor, TeacherRecord, default_geometry
from softlabels.store.format.descriptor import OWN_COLUMNS
from softlabels.store.format.limits import MAX_UNIT_CHUNKS

if TYPE_CHECKING:
    from torch import Tensor

SAMPLED = 512
SAMPLED_BYTES = 2**28
"""Rows the teacher is asked about before an encoding is chosen, and most of their logits."""

PILOT_SHARE = 20
"""One row in so many is asked about twice where a codebook is fitted."""

HEAD = "logits"
"""Name of the head of a teacher with one output."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to label a dataset.

    Attributes:
        encoding: specification (see softlabels.encodings), or what it is to reach (see softlabels.planning.goals);
            None: every logit up to 64 classes, else the 32 likeliest.
        temperatures: at which the mass of unlisted classes is kept.
        unit_rows: rows committed at a time; None: from the size of a row.
        shard_format: ``zarr`` or ``parquet``.
        codec: compression of the shards, ``zstd`` or ``lz4``.
        batch_size: rows the teacher sees at a time.
        device: where the teacher runs; None: an accelerator where there is one.
        gate: check the teacher on a few rows first.
        extra_classes: the teacher may know classes the hard labels do not show.
        seed: of what is drawn.
    """

    encoding: str | None = None
    temperatures: tuple[float, ...] = (1.0,)
    unit_rows: int | None = None
    shard_format: str = "zarr"
    codec: str = "zstd"
    batch_size: int = 256
    device: str | None = None
    gate: bool = True
    extra_classes: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidArgument(f"batch_size must be above 0, not {self.batch_size}")
        if self.unit_rows is not None and self.unit_rows < 1:
            raise InvalidArgument(f"unit_rows must be above 0, not {self.unit_rows}")


def describe(
    source: Source, teacher: Model, settings: Settings, existing: Mapping[str, Head] | None = None
) -> tuple[Descriptor, dict[str, Codebook]]:
    """The descriptor of the store that labels ``source`` by ``teacher``, and the codebooks it needs.

    Args:
        source: the data.
        teacher: the model.
        settings: how to label.
        existing: heads of the store that is gone on with, or of one whose rows are copied: what a target came to, and
            the codebook, are taken over.

    Raises:
        InvalidArgument: an encoding, temperature or codec that cannot be meant for this teacher.
    """
    classes = teacher.classes
    before = (existing or {}).get(HEAD)
    spec = settings.encoding
    if planning.is_target(spec):
        spec = before.encoding if before else planning.resolve(spec, sample_of_teacher(source, teacher, settings))
    temperatures = canonical_temperatures(sorted(settings.temperatures), before.temperatures if before else ())
    encoding = encodings.default(classes, len(temperatures)) if spec is None else encodings.parse(spec, classes=classes)
    head = Head(encoding=encoding.spec, classes=classes, temperatures=temperatures)
    head, codebook = with_codebook(head, before, lambda: _pilot(source, teacher, settings, head), settings.seed)
    row_bytes = sum(column.entry_bytes for column in OWN_COLUMNS.values()) + encodings.row_bytes(encoding, head)
    unit_rows, chunk_rows = default_geometry(row_bytes, len(source))
    if settings.unit_rows is not None:
        unit_rows = min(settings.unit_rows, len(source))
        chunk_rows = min(max(chunk_rows, -(-unit_rows // MAX_UNIT_CHUNKS)), unit_rows)
    descriptor = Descriptor(
        rows=len(source),
        unit_rows=unit_rows,
        chunk_rows=chunk_rows,
        heads={HEAD: head},
        teacher=TeacherRecord(spec=teacher.spec, digest=teacher.digest),
        data=DataRecord(spec=source.spec, fingerprint=source.fingerprint, rows=len(source)),
        shard_format=settings.shard_format,
        codec=settings.codec,
        seed=settings.seed,
    )
    return descriptor, {} if codebook is None else {HEAD: codebook}


def _pilot(source: Source, teacher: Model, settings: Settings, head: Head) -> Iterator[Tensor]:
    """Logits of rows spread evenly over the data: a twentieth of it, 512 at least, no more than a codebook takes."""
    count = min(len(source), max(SAMPLED, len(source) // PILOT_SHARE), pilot_rows(head))
    return _spread_logits(source, teacher, count, settings.batch_size)


def _spread_logits(source: Source, teacher: Model, count: int, batch_size: int) -> Iterator[Tensor]:
    numbers = np.unique(np.linspace(0, len(source) - 1, num=count).astype(np.int64))
    for start in range(0, len(numbers), batch_size):
        yield teacher.logits(source.inputs(numbers[start : start + batch_size])).float().cpu()


def sample_of_teacher(source: Source, teacher: Model, settings: Settings, *, rows: int = SAMPLED) -> planning.Sample:
    """What the teacher says of a few rows, spread evenly over the data.

    Args:
        source: the data.
        teacher: the model that is to label it.
        settings: temperatures, codec and batch size.
        rows: how many to ask about, where memory allows.

    Raises:
        InvalidArgument: the data has too few rows to plan with.
        InvalidLogits: outputs that are not finite.
    """
    count = min(len(source), rows, max(planning.FEWEST, SAMPLED_BYTES // (4 * teacher.classes)))
    parts = [part.numpy() for part in _spread_logits(source, teacher, count, settings.batch_size)]
    return planning.Sample(
        logits=np.concatenate(parts),
        temperatures=canonical_temperatures(sorted(settings.temperatures)),
        items=len(source),
        rows=len(source),
        codec=settings.codec,
    )
