"""Settings of a run of ``generate``, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from softlabels.encodings.registry import family_of
from softlabels.errors import InvalidArgument
from softlabels.planning import is_target
from softlabels.store.shards.registry import names

ShardFormat = str
"""Name of a shard format, one of ``softlabels.store.shards.registry.names()``."""
Codec = Literal["zstd", "lz4"]

MAX_VERSION_LENGTH = 200
"""Characters of a teacher's version."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run that labels a dataset.

    Attributes:
        encoding: Specification (see softlabels.encodings) or target (see softlabels.planning.goals) of the only head,
            or of every head of kind classes or tokens; or a mapping of heads to specifications, in which ``*`` stands
            for these. None: the default of each head (see softlabels.generation.heads).
        temperatures: Temperatures at which the mass of unlisted classes is stored.
        unit_rows: Rows committed at a time; None: from the size of a row.
        shard_format: File format of the shards, ``zarr`` or ``parquet``.
        codec: Compression of the shards, ``zstd`` or ``lz4``.
        batch_size: Rows that the teacher predicts at a time.
        device: Torch device of the teacher; None: an accelerator if there is one.
        gate: If True, check the teacher's outputs for a few rows first, and some rows of later batches.
        extra_classes: If True, the teacher may know classes that the hard labels do not show.
        seed: Seed of everything that is drawn.
        teacher_version: Version of the teacher that its code and weights do not show; part of its identity.
        engine: Name of the engine that runs the teacher (see softlabels.generation.engines); None: ``torchrun`` where
            a launcher started several processes, else ``local``.
        processes: Processes of the engines local and ray; None: 1, and with ray one per GPU or node.
        skip_bad: Rows that may be left without labels because they cannot be read or the teacher fails on them; None:
            such a row is an error.
        chosen: If True, store the log-probability of the text's own next token too, as head ``chosen``.
        hidden: Layers whose states are stored too, as heads ``hidden_K``; negative ones count from the last.
        written_by: Digest or name of the model that wrote the text; None if unknown.
        views: Augmented views of each image to label; None: the images as they are.
        augment: Policy of the views; needed with ``views``.
        downsample: Height and width in pixels of the squares whose mean distribution is stored, of every head with an
            output per pixel, or by head; 1: every pixel is stored.

    Raises:
        InvalidArgument: A value is out of range or unknown.
    """

    encoding: str | Mapping[str, str] | None = None
    temperatures: tuple[float, ...] = (1.0,)
    unit_rows: int | None = None
    shard_format: ShardFormat = "zarr"
    codec: Codec = "zstd"
    batch_size: int = 256
    device: str | None = None
    gate: bool = True
    extra_classes: bool = False
    seed: int = 0
    teacher_version: str | None = None
    engine: str | None = None
    processes: int | None = None
    skip_bad: int | None = None
    chosen: bool = False
    hidden: tuple[int, ...] = ()
    written_by: str | None = None
    views: int | None = None
    augment: str | None = None
    downsample: int | Mapping[str, int] = 1

    def __post_init__(self) -> None:
        if (self.views is None) != (self.augment is None):
            raise InvalidArgument(
                f"views: need a number and a policy, got views {self.views} and augment {self.augment!r}; expected "
                "both, such as views=50, augment='randcrop,flip'"
            )
        for name in ("batch_size", "unit_rows", "processes", "views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{name}: too small, got {value}; expected 1 or more")
        _check_families(self.encoding)
        sides = [self.downsample] if isinstance(self.downsample, int) else self.downsample.values()
        if any(side < 1 for side in sides):
            raise InvalidArgument(f"downsample: too small, got {self.downsample}; expected 1 or more")
        if self.skip_bad is not None and self.skip_bad < 0:
            raise InvalidArgument(f"skip_bad: too small, got {self.skip_bad}; expected 0 or more")
        for name, choices in (("shard_format", names()), ("codec", get_args(Codec))):
            if getattr(self, name) not in choices:
                raise InvalidArgument(f"{name}: unknown, got {getattr(self, name)!r}; expected {' or '.join(choices)}")
        version = self.teacher_version
        if version is not None and not 0 < len(version) <= MAX_VERSION_LENGTH:
            raise InvalidArgument(
                f"teacher_version: invalid length, got {len(version)} characters; expected 1 to {MAX_VERSION_LENGTH}"
            )


def _check_families(encoding: str | Mapping[str, str] | None) -> None:
    """Raise for an unknown encoding before the data is read; its options need the classes of a head."""
    for spec in [encoding] if isinstance(encoding, str) else (encoding or {}).values():
        if not is_target(spec):
            family_of(spec)
