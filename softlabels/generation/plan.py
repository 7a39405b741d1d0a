"""From settings to a descriptor: what a run of ``generate`` will write."""

from __future__ import annotations

from dataclasses import dataclass

from softlabels import encodings
from softlabels.errors import InvalidArgument
from softlabels.labels import Head
from softlabels.models import Model
from softlabels.sources import Source
from softlabels.store import Descriptor, default_geometry
from softlabels.store.descriptor import MOST_CHUNKS, OWN_COLUMNS

HEAD = "logits"
"""Name of the head of a teacher with one output."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to label a dataset.

    Attributes:
        encoding: specification (see softlabels.encodings); None: every logit up to 64 classes, else the 32 likeliest.
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


def describe(source: Source, teacher: Model, settings: Settings) -> Descriptor:
    """The descriptor of the store that labels ``source`` by ``teacher``.

    Raises:
        InvalidArgument: an encoding, temperature or codec that cannot be meant for this teacher.
    """
    classes = teacher.classes
    if settings.encoding is None:
        encoding = encodings.default(classes)
    else:
        encoding = encodings.parse(settings.encoding, classes=classes)
    temperatures = tuple(sorted(set(settings.temperatures)))
    head = Head(encoding=encoding.spec, classes=classes, temperatures=temperatures)
    row_bytes = sum(column.entry_bytes for column in (*OWN_COLUMNS.values(), *encoding.columns(head).values()))
    unit_rows, chunk_rows = default_geometry(row_bytes, len(source))
    if settings.unit_rows is not None:
        unit_rows = min(settings.unit_rows, len(source))
        chunk_rows = min(max(chunk_rows, -(-unit_rows // MOST_CHUNKS)), unit_rows)
    return Descriptor(
        rows=len(source),
        unit_rows=unit_rows,
        chunk_rows=chunk_rows,
        heads={HEAD: head},
        teacher={"spec": teacher.spec, "digest": teacher.digest},
        data={"spec": source.spec, "fingerprint": source.fingerprint, "rows": len(source)},
        shard_format=settings.shard_format,
        codec=settings.codec,
        seed=settings.seed,
    )
