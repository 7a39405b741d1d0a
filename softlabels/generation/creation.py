"""``sl.create``: the store that an inference loop of the user appends to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.generation.first_rows import FirstRows, needs_rows
from softlabels.generation.heads import existing_heads, plan_heads
from softlabels.generation.label_writer import LabelWriter
from softlabels.generation.pilot import GivenPilot
from softlabels.generation.settings import Codec, Settings, ShardFormat
from softlabels.labels import Head
from softlabels.store import DataRecord, Descriptor, TeacherRecord, create_or_open
from softlabels.store.storage.storage import Location

if TYPE_CHECKING:
    from torch import Tensor

DEFAULTS = Settings()


def create(
    location: Location,
    *,
    heads: Mapping[str, Head],
    teacher: str = "",
    teacher_digest: str | None = None,
    shard_format: ShardFormat = DEFAULTS.shard_format,
    codec: Codec = DEFAULTS.codec,
    unit_rows: int | None = DEFAULTS.unit_rows,
    seed: int = DEFAULTS.seed,
    pilot: Mapping[str, Tensor | NDArray[Any]] | None = None,
) -> LabelWriter:
    """Return a writer on a store that grows: a new one, or the one at ``location`` if it has the same settings.

    Args:
        location: Location of the store.
        heads: Outputs of the teacher, by name, e.g. ``{"logits": Head(classes=1000, encoding="topk:32")}``. An encoding
            may be a target, as for generate (``threshold:bytes=40``); it is resolved on the pilot.
        teacher: Name of the teacher. Without a digest, it alone tells teachers apart.
        teacher_digest: Digest of the teacher's weights, or any text that changes with them; None: there is none.
        shard_format: File format of the shards, ``zarr`` or ``parquet``.
        codec: Compression of the shards, ``zstd`` or ``lz4``.
        unit_rows: Rows committed at a time; None: from the size of a row.
        seed: Seed of everything that is drawn.
        pilot: Logits (n, C) of a few thousand rows or positions like those to come, by head, for encodings with several
            tail priors and for targets. None: a new store with such encodings begins once enough rows were appended,
            at most 16,384 or 512 MiB, which are held until then.

    Raises:
        InvalidArgument: A head or setting is invalid.
        StoreConflict: The directory holds another store, or other files.
        StoreBusy: Another process appends to the store.

    Example:
        >>> import numpy as np, softlabels as sl
        >>> with sl.create("labels", heads={"logits": sl.Head(classes=10, encoding="topk:3")}) as writer:
        ...     rows = writer.append(["a", "b"], {"logits": np.zeros((2, 10), np.float32)})
        >>> sl.open("labels").rows
        2
    """
    for name, head in heads.items():
        if not isinstance(head, Head):
            raise InvalidArgument(
                f"heads: no description of head {name!r}, got {head!r}; expected sl.Head(classes=..., encoding=...)"
            )

    def start(pilot: Mapping[str, Tensor | NDArray[Any]] | None) -> LabelWriter:
        given_pilot = GivenPilot(pilot, codec=codec, shard_format=shard_format, unit_rows=unit_rows)
        planned = plan_heads(heads, existing_heads(location), given_pilot, seed=seed)
        store_unit_rows, chunk_rows = planned.geometry(None, unit_rows)
        descriptor = Descriptor(
            rows=None,
            unit_rows=store_unit_rows,
            chunk_rows=chunk_rows,
            heads=planned.heads,
            teacher=TeacherRecord(spec=teacher, digest=teacher_digest),
            data=DataRecord(spec="appended", fingerprint=None, rows=None),
            shard_format=shard_format,
            codec=codec,
            seed=seed,
        )
        return LabelWriter(create_or_open(location, descriptor, planned.codebooks))

    if pilot is None and needs_rows(heads) and not existing_heads(location):
        return FirstRows(heads, start)
    return start(pilot)
