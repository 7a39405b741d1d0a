"""A few rows of dense logits, and what an encoding makes of them: bytes by the store's own codec, and fidelity.

Tail priors and codebooks are fitted on some rows and measured on the others (four folds), as those of a store are not
fitted to the rows at hand either. With few rows of many classes they are rough, so the KL is an upper estimate: a store
sums the unlisted probability over up to 256 units, and fits a codebook to thousands of rows. Where rows come from a
store, its own prior is taken into the mean, and its codebook is used as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels import encodings
from softlabels.encodings import codebook as codebooks
from softlabels.encodings.tail import sums_of, tail_prior
from softlabels.errors import InvalidArgument
from softlabels.fidelity import Fidelity, combine, measure
from softlabels.labels import DISTRIBUTIONS, Head
from softlabels.store import open_store
from softlabels.store.shards.zarr_shard import encode_array

FOLDS = 4
FEWEST = 16
"""Rows without which nothing is measured."""
PILOT_BLOCK = 512
KEY_BYTES = 16
"""A row's key, which no codec packs; positions of ragged rows share one."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Dense logits of some rows, and the dataset they stand for.

    Attributes:
        logits: (n, C) float32.
        temperatures: at which labels are to be had; the first decides.
        items: rows in all (positions, where rows are ragged).
        rows: rows in all.
        codec: of the shards.
        kind: of the head.
        prior: (len(temperatures), C) a tail prior known already; None: none is.
        encoding: of the labels that are there already; None: there are none.
        codebook: of those labels.
    """

    logits: NDArray[np.float32]
    temperatures: tuple[float, ...]
    items: int
    rows: int
    codec: str = "zstd"
    kind: str = "classes"
    prior: NDArray[np.float32] | None = field(default=None, repr=False)
    encoding: str | None = None
    codebook: encodings.Codebook | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.logits) < FEWEST:
            raise InvalidArgument(
                f"{len(self.logits)} rows are too few to plan with; {FEWEST} are the least, a few hundred are better"
            )

    @property
    def classes(self) -> int:
        """C."""
        return int(self.logits.shape[1])

    def for_rows(self, rows: int | None) -> Sample:
        """The same rows, standing for a dataset of another size; None: of the one they are from."""
        if rows is None:
            return self
        return replace(self, items=max(1, round(self.items * rows / self.rows)), rows=rows)

    def total_bytes(self, bytes_an_item: float) -> float:
        """Of the dataset's shards: labels and keys."""
        return bytes_an_item * self.items + KEY_BYTES * self.rows

    def try_encoding(self, spec: str) -> tuple[float, float, Fidelity]:
        """Bytes an item, ids an item, and the fidelity of an encoding.

        Raises:
            InvalidArgument: it cannot be meant for this head.
            InvalidLogits: a row is not finite.
        """
        encoding = encodings.parse(spec, classes=self.classes)
        temperatures = self.temperatures if encoding.has_tail else self.temperatures[:1]
        head = Head(encoding=encoding.spec, classes=self.classes, temperatures=temperatures)
        folds = np.array_split(np.arange(len(self.logits)), FOLDS)
        parts, priors = self._encode(encoding, head, folds)
        columns = encoding.columns(head)
        size, ids = 0.0, 0 if "ids" in columns else self.logits.size
        for name in columns:
            whole = np.concatenate([part.arrays[name] for part in parts])
            size += len(encode_array(np.ascontiguousarray(whole), self.codec))
            ids += whole.size if name == "ids" else 0
        found = []
        for part, rows, prior in zip(parts, folds, priors, strict=True):
            labels = encoding.decode(part.arrays, head, prior)
            found.append(measure(self.logits[rows], labels, temperatures))
        return size / len(self.logits), ids / len(self.logits), combine(found)

    def _encode(
        self, encoding: encodings.Encoding, head: Head, folds: list[NDArray[np.int64]]
    ) -> tuple[list[encodings.Encoded], list[NDArray[np.float32] | None]]:
        """The labels of each fold, and the tail priors they are to be read with."""
        import torch

        parts = []
        priors: list[NDArray[np.float32] | None] = []
        for fold, rows in enumerate(folds):
            codebook = self._codebook(encoding, head, folds, fold)
            logits = torch.from_numpy(self.logits[rows])
            parts.append(encoding.encode(logits, head, rows, residual=encoding.has_tail, codebook=codebook))
            priors.append(None if codebook is None else codebook.priors)
        if encoding.priors == 1:
            residuals = [part.residual for part in parts]
            priors = [self._prior(residuals, fold, head.temperatures) for fold in range(len(folds))]
        return parts, priors

    def _codebook(
        self, encoding: encodings.Encoding, head: Head, folds: list[NDArray[np.int64]], fold: int
    ) -> encodings.Codebook | None:
        """The store's, or one fitted to the other folds; None: the encoding has none."""
        import torch

        if encoding.priors == 1 or not isinstance(encoding, encodings.TopK | encodings.Adaptive):
            return None
        if self.codebook is not None and self.codebook.priors.shape[1] == encoding.priors:
            return self.codebook
        others = np.concatenate([rows for at, rows in enumerate(folds) if at != fold])
        return codebooks.fit(encoding, head, torch.split(torch.from_numpy(self.logits[others]), PILOT_BLOCK))

    def _prior(
        self, residuals: list[NDArray[np.float64] | None], fold: int, temperatures: tuple[float, ...]
    ) -> NDArray[np.float32] | None:
        """The tail prior of the other folds, in equal parts with the one that is known."""
        sums: list[NDArray[Any]] = [part for at, part in enumerate(residuals) if part is not None and at != fold]
        if not sums:
            return None
        if self.prior is not None and len(self.prior) == len(temperatures):
            probability, exposure = np.sum(sums, axis=0)
            sums.append(sums_of(self.prior, exposure, probability.sum(axis=1)))
        return tail_prior(sums, self.classes)


def sample_of_store(path: str | Path, head: str = "logits") -> Sample:
    """The probe of a sealed store.

    Args:
        path: of the store.
        head: which output.

    Raises:
        InvalidArgument: no such head, no probe of it, or numbers instead of a distribution.
        StoreNotFound: no sealed store there.
    """
    store = open_store(path)
    names = store.head_columns(head)
    kind = store.heads[head]
    probe = store.probe(head)
    if kind.kind not in DISTRIBUTIONS or kind.position_shape or probe is None:
        raise InvalidArgument(
            f"{path} keeps no dense rows of distributions for head {head!r}; plan with --teacher and the data instead"
        )
    items = store.rows
    if probe.positions is not None:
        length = [name for name in names if name.endswith("/length")]
        items = sum(int(store.read_chunk(number, length)[length[0]].sum()) for number in range(store.chunks))
    codebook = store.codebook(head)
    return Sample(
        logits=probe.logits,
        temperatures=kind.temperatures,
        items=items,
        rows=store.rows,
        codec=store.descriptor.codec,
        kind=kind.kind,
        prior=store.prior(head) if codebook is None else None,
        encoding=kind.encoding,
        codebook=codebook,
    )
