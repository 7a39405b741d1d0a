"""From settings to a descriptor: what a run of ``generate`` will write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from softlabels import encodings, fidelity
from softlabels.errors import InvalidArgument, StoreNotFound
from softlabels.labels import Head
from softlabels.models import Model
from softlabels.sources import Source
from softlabels.store import Descriptor, default_geometry
from softlabels.store.descriptor import MOST_CHUNKS, OWN_COLUMNS
from softlabels.store.snapshots import open_root

SAMPLED = 512
SAMPLED_BYTES = 2**28
"""Rows the teacher is asked about before an encoding is chosen, and most of their logits."""

HEAD = "logits"
"""Name of the head of a teacher with one output."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to label a dataset.

    Attributes:
        encoding: specification (see softlabels.encodings), or what it is to reach (see softlabels.fidelity.targets);
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


def describe(source: Source, teacher: Model, settings: Settings) -> Descriptor:
    """The descriptor of the store that labels ``source`` by ``teacher``.

    Raises:
        InvalidArgument: an encoding, temperature or codec that cannot be meant for this teacher.
    """
    classes = teacher.classes
    if settings.encoding is None:
        encoding = encodings.default(classes)
    elif fidelity.is_target(settings.encoding):
        reached = fidelity.resolve(settings.encoding, sample_of_teacher(source, teacher, settings))
        encoding = encodings.parse(reached, classes=classes)
    else:
        encoding = encodings.parse(settings.encoding, classes=classes)
    temperatures = tuple(sorted(set(settings.temperatures)))
    head = Head(encoding=encoding.spec, classes=classes, temperatures=temperatures)
    row_bytes = sum(column.entry_bytes for column in OWN_COLUMNS.values()) + encodings.row_bytes(encoding, head)
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


def settle(settings: Settings, out: str | Path) -> Settings:
    """Settings that go on with the store at ``out``: what a target came to when it was made is not decided again."""
    if not fidelity.is_target(settings.encoding):
        return settings
    try:
        _, descriptor = open_root(out)
    except StoreNotFound:
        return settings
    head = descriptor.heads.get(HEAD)
    return settings if head is None else replace(settings, encoding=head.encoding)


def sample_of_teacher(source: Source, teacher: Model, settings: Settings, *, rows: int = SAMPLED) -> fidelity.Sample:
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
    count = min(len(source), rows, max(fidelity.FEWEST, SAMPLED_BYTES // (4 * teacher.classes)))
    numbers = np.unique(np.linspace(0, len(source) - 1, num=count).astype(np.int64))
    parts = [
        teacher.logits(source.inputs(numbers[start : start + settings.batch_size])).float().cpu().numpy()
        for start in range(0, len(numbers), settings.batch_size)
    ]
    return fidelity.Sample(
        logits=np.concatenate(parts),
        temperatures=tuple(sorted(set(settings.temperatures))),
        items=len(source),
        rows=len(source),
        codec=settings.codec,
    )
