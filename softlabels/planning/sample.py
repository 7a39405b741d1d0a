"""A few rows of dense logits, and the bytes and the fidelity of encodings on them, by the store's own codec.

Tail priors and codebooks are fitted to some rows and measured on the others (four folds), because those of a store are
not fitted to the rows at hand either. With few rows of many classes they are rough, so the KL is an upper estimate: a
store sums the unlisted probability over up to 256 units, and fits a codebook to thousands of rows. If the rows come
from a store, its own prior is taken into the mean, and its codebook is used as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import encodings
from softlabels.encodings import codebook as codebooks
from softlabels.encodings.tail import sums_of, tail_prior
from softlabels.errors import InvalidArgument
from softlabels.fidelity import Fidelity, combine, measure_groups
from softlabels.labels import DISTRIBUTIONS, Head, HeadKind
from softlabels.planning.container import KEY_BYTES, container_bytes, geometry_of, label_bytes
from softlabels.store import open_store
from softlabels.store.storage.storage import Location

FOLDS = 4
MIN_SAMPLE_ROWS = 16
"""Rows that are needed to measure anything."""
PILOT_BLOCK = 512
BLOCKS = 8
"""Groups of rows of a fold; the spread of their means gives the standard error of the KL."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One encoding, measured on a sample.

    Attributes:
        encoding: Canonical specification.
        label_bytes: Bytes of labels per item, compressed.
        total_bytes: Bytes of all shards of the dataset: labels, keys and containers.
        units: Units of the dataset.
        ids: Classes listed per item, or per position of it.
        fidelity: Fidelity of the labels.
        kl_error: Standard error of the KL at the first temperature, in nats; 0 for unbiased labels.
    """

    encoding: str
    label_bytes: float
    total_bytes: float
    units: int
    ids: float
    fidelity: Fidelity
    kl_error: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Dense logits of some rows, and the dataset they stand for.

    Attributes:
        logits: Logits of the sampled items, (n, C) float32; of rows with a fixed shape of positions, such as pixels,
            those of whole rows, (n, *shape, C), because neighbours compress together.
        temperatures: Temperatures of the labels; the first decides.
        items: Rows of the dataset; of ragged rows their positions.
        rows: Rows of the dataset.
        codec: Compression of the shards.
        kind: Kind of the head.
        prior: Tail prior that is known already, (len(temperatures), C); None if there is none.
        encoding: Encoding of the labels that the sample comes from; None if there are none.
        codebook: Codebook of those labels.
        shard_format: File format of the shards.
        unit_rows: Rows of a unit; None: from the size of a row.
        grows: If True, rows are appended to the store.
        seconds: Time of the teacher for all rows of the dataset; None if unknown.

    Raises:
        InvalidArgument: There are too few rows.
    """

    logits: NDArray[np.float32]
    temperatures: tuple[float, ...]
    items: int
    rows: int
    codec: str = "zstd"
    kind: HeadKind = "classes"
    prior: NDArray[np.float32] | None = field(default=None, repr=False)
    encoding: str | None = None
    codebook: encodings.Codebook | None = field(default=None, repr=False)
    shard_format: str = "zarr"
    unit_rows: int | None = None
    grows: bool = False
    seconds: float | None = None

    def __post_init__(self) -> None:
        if len(self.logits) < MIN_SAMPLE_ROWS:
            raise InvalidArgument(
                f"sample: too few rows to plan with, got {len(self.logits)}; expected {MIN_SAMPLE_ROWS} or more, "
                "better a few hundred"
            )

    @property
    def classes(self) -> int:
        """The number of classes C."""
        return int(self.logits.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """The positions of an item; () for one distribution."""
        return tuple(self.logits.shape[1:-1])

    @property
    def key_bytes(self) -> float:
        """The bytes of keys per item, which every encoding costs."""
        return KEY_BYTES * self.rows / self.items

    def for_rows(self, rows: int | None) -> Sample:
        """Return the same rows, standing for a dataset of another size.

        Args:
            rows: Rows of that dataset; None: of the one they are from.
        """
        if rows is None:
            return self
        seconds = None if self.seconds is None else self.seconds * rows / self.rows
        return replace(self, items=max(1, round(self.items * rows / self.rows)), rows=rows, seconds=seconds)

    def try_encoding(self, spec: str) -> Tried:
        """Return the bytes, the ids and the fidelity of an encoding.

        Args:
            spec: Specification of the encoding.

        Raises:
            InvalidArgument: The encoding is invalid for this head.
            InvalidLogits: A row is not finite.
        """
        encoding = encodings.parse(spec, classes=self.classes)
        temperatures = self.temperatures if encoding.has_tail else self.temperatures[:1]
        head = Head(encoding=encoding.spec, classes=self.classes, temperatures=temperatures, shape=self.shape)
        folds = np.array_split(np.arange(len(self.logits)), FOLDS)
        encoded, priors = self._encode(encoding, head, folds)
        columns = encoding.columns(head)
        labels = {name: np.concatenate([fold.arrays[name] for fold in encoded]) for name in columns}
        ids = encoding.entries(labels, head)
        blocks = [
            block
            for fold, rows, prior in zip(encoded, folds, priors, strict=True)
            for block in measure_groups(
                self.logits[rows],
                encoding.decode(fold.arrays, head, prior),
                temperatures,
                [len(group) for group in np.array_split(rows, min(BLOCKS, len(rows)))],
            )
        ]
        fidelity = combine(blocks)
        size = label_bytes(head, labels, len(self.logits), codec=self.codec, shard_format=self.shard_format)
        per_item = size / len(self.logits)
        stored = replace(head, kind=self.kind, shape=self.shape if self.items == self.rows else (None,))
        unit_rows, _ = geometry_of({"head": stored}, None if self.grows else self.rows, self.unit_rows)
        return Tried(
            encoding=encoding.spec,
            label_bytes=per_item,
            total_bytes=per_item * self.items + KEY_BYTES * self.rows + self._container_bytes(stored),
            units=-(-self.rows // unit_rows),
            ids=ids / (len(self.logits) * math.prod(self.shape)),
            fidelity=fidelity,
            kl_error=_standard_error(blocks, fidelity),
        )

    def _container_bytes(self, head: Head) -> int:
        return container_bytes(
            head,
            rows=self.rows,
            codec=self.codec,
            shard_format=self.shard_format,
            unit_rows=self.unit_rows,
            grows=self.grows,
        )

    def _encode(
        self, encoding: encodings.Encoding, head: Head, folds: Sequence[NDArray[np.int64]]
    ) -> tuple[list[encodings.Encoded], list[NDArray[np.float32] | None]]:
        """Return the labels of each fold, and the tail priors to read them with."""
        import torch

        encoded = []
        priors: list[NDArray[np.float32] | None] = []
        for fold, rows in enumerate(folds):
            codebook = self._codebook(encoding, head, folds, fold)
            logits = torch.from_numpy(self.logits[rows])
            encoded.append(encoding.encode(logits, head, rows, residual=encoding.has_tail, codebook=codebook))
            priors.append(None if codebook is None else codebook.priors)
        if encoding.priors == 1:
            residuals = [block.residual for block in encoded]
            priors = [self._prior(residuals, fold, head.temperatures) for fold in range(len(folds))]
        return encoded, priors

    def _codebook(
        self, encoding: encodings.Encoding, head: Head, folds: Sequence[NDArray[np.int64]], fold: int
    ) -> encodings.Codebook | None:
        """Return the store's codebook, or one fitted to the other folds; None if the encoding has none."""
        import torch

        if encoding.priors == 1:
            return None
        if self.codebook is not None and self.codebook.priors.shape[1] == encoding.priors:
            return self.codebook
        others = np.concatenate([rows for index, rows in enumerate(folds) if index != fold])
        pilot = torch.from_numpy(self.logits[others]).reshape(-1, self.classes)
        return codebooks.fit(encoding, head, torch.split(pilot, PILOT_BLOCK))

    def _prior(
        self, residuals: Sequence[NDArray[np.float64] | None], fold: int, temperatures: tuple[float, ...]
    ) -> NDArray[np.float32] | None:
        """Return the tail prior of the other folds, in equal shares with the one that is known."""
        sums: list[NDArray[Any]] = [
            residual for index, residual in enumerate(residuals) if residual is not None and index != fold
        ]
        if not sums:
            return None
        if self.prior is not None and len(self.prior) == len(temperatures):
            probability, exposure = np.sum(sums, axis=0)
            sums.append(sums_of(self.prior, exposure, probability.sum(axis=1)))
        return tail_prior(sums, self.classes)


def _standard_error(blocks: Sequence[Fidelity], mean: Fidelity) -> float:
    """Return the standard error of the first KL, from its means over groups of rows."""
    name = next(iter(mean.kl), None)
    if name is None or len(blocks) < 2:
        return 0.0
    weights = np.array([block.rows for block in blocks]) / mean.rows
    spread = np.array([block.kl[name] for block in blocks]) - mean.kl[name]
    return float(np.sqrt((weights * spread**2).sum() / (len(blocks) - 1)))


def sample_of_store(path: Location, head: str | None = None, *, digest: str | None = None) -> Sample:
    """Return the probe of a sealed store.

    Args:
        path: Directory of the store.
        head: Name of the head; None: the first distribution.
        digest: Digest that the snapshot must have; None: the last snapshot.

    Raises:
        InvalidArgument: There is no such head, it has no probe, or it is no distribution.
        StoreNotFound: There is no sealed store.
    """
    store = open_store(path, digest=digest)
    usable = [name for name, kind in store.heads.items() if kind.kind in DISTRIBUTIONS]
    name = head if head is not None else next(iter(usable), next(iter(store.heads)))
    names = store.head_columns(name)
    kind = store.heads[name]
    probe = store.probe(name)
    if name not in usable or probe is None:
        raise InvalidArgument(
            f"{path}: no dense rows of a distribution for head {name!r}; plan with teacher= and the data instead"
        )
    items = store.rows
    if probe.positions is not None:
        length = [column for column in names if column.endswith("/length")]
        items = sum(int(columns[length[0]].sum()) for columns in store.read_chunks(range(store.chunks), length))
    codebook = store.codebook(name)
    return Sample(
        logits=probe.logits,
        temperatures=kind.temperatures,
        items=items,
        rows=store.rows,
        codec=store.descriptor.codec,
        kind=kind.kind,
        prior=store.prior(name) if codebook is None else None,
        encoding=kind.encoding,
        codebook=codebook,
        shard_format=store.descriptor.shard_format,
        unit_rows=store.descriptor.unit_rows,
        grows=store.descriptor.grows,
    )
