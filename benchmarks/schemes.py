"""Ways to keep what a teacher said, ours and other people's, each as labels and the bytes they take.

Others': top-k as people write it by hand (float16 and uint32 lists in Parquet with zstd), RS-KD at 24 bits an entry
(arXiv 2503.16870, section 4), and top-k with a polynomial for all but the first values, as DistillKit's README tells
it (its recommended and its budget configuration, with normalised ranks, which are better conditioned). What they leave
out is spread evenly, the best that can be done without more information, or dropped where it says ``renormalised``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from softlabels import encodings, rng
from softlabels.encodings import Adaptive, Codebook, TopK, codebook
from softlabels.encodings.tail import tail_prior
from softlabels.labels import Head, SoftLabels, SparseLabels
from softlabels.store.shards.zarr_shard import encode_array

CHUNK = 4096
"""Rows compressed together, as in a store."""


@dataclass(frozen=True)
class Scheme:
    """A way to keep labels.

    Attributes:
        name: for tables.
        family: ``exact`` (the same every time), ``unbiased``, or ``dropped`` (no probability for what is not listed).
        ours: whether it is one of softlabels' encodings.
        encode: (N, C) logits and the number of the first row to labels and bytes a row.
    """

    name: str
    family: str
    ours: bool
    encode: Callable[[Tensor, int], tuple[SoftLabels, float]]


@dataclass(frozen=True)
class Tail:
    """Statistics of unlisted mass before encoding: the prior a store would gather, or the codebook it would fit."""

    prior: np.ndarray | None = None
    codebook: Codebook | None = None


def tail_of(spec: str, logits: Callable[[], Iterable[Tensor]], classes: int) -> Tail:
    """The tail of an encoding, from (N, C) logits of other rows."""
    encoding = encodings.parse(spec, classes=classes)
    if not isinstance(encoding, TopK | Adaptive):
        return Tail()
    head = Head(encoding=encoding.spec, classes=classes, codebook="0" * 64 if encoding.priors > 1 else None)
    if encoding.priors > 1:
        book = codebook.fit(encoding, head, logits())
        return Tail(book.priors, book)
    sums = (encoding.encode(block, head, np.arange(len(block)), residual=True).residual for block in logits())
    return Tail(tail_prior((one for one in sums if one is not None), classes))


def ours(spec: str, classes: int, *, tail: Tail | None = None, seed: int = 0) -> Scheme:
    """One of softlabels' encodings, compressed by the store's own codec; keys and footers are left out."""
    encoding = encodings.parse(spec, classes=classes)
    tail = tail or Tail()
    head = Head(encoding=encoding.spec, classes=classes, codebook="0" * 64 if tail.codebook else None)
    columns = encoding.columns(head)

    def encode(logits: Tensor, first: int) -> tuple[SoftLabels, float]:
        rows = np.arange(first, first + len(logits))
        size, parts = 0, []
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            arrays = encoding.encode(
                logits[start : start + CHUNK], head, chunk, words=rng.words(seed, chunk), codebook=tail.codebook
            ).arrays
            size += sum(len(encode_array(np.ascontiguousarray(arrays[name]), "zstd")) for name in columns)
            parts.append(arrays)
        columns_of_rows = {name: np.concatenate([arrays[name] for arrays in parts]) for name in columns}
        return encoding.decode(columns_of_rows, head, tail.prior), size / len(rows)

    return Scheme(encoding.spec, "exact" if encoding.has_tail else "unbiased", ours=True, encode=encode)


def by_hand(k: int, *, renormalised: bool = False) -> Scheme:
    """Top-k in float16 and uint32 lists, Parquet with zstd and pyarrow's other defaults."""

    def encode(logits: Tensor, first: int) -> tuple[SoftLabels, float]:
        values, ids = logits.float().log_softmax(-1).topk(k, dim=-1)
        values, ids = values.half().numpy(), ids.numpy()
        table = pa.table({
            "ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.astype(np.uint32).reshape(-1)), k),
            "log_probs": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), k),
        })  # fmt: skip
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        tail = "renormalize" if renormalised else "uniform"
        return _listed(ids, values.astype(np.float32), logits.shape[1], tail), len(buffer.getvalue()) / len(ids)

    name = f"top-{k} by hand" + (", renormalised" if renormalised else "")
    return Scheme(name, "dropped" if renormalised else "exact", ours=False, encode=encode)


def rs_kd(draws_a_row: int, classes: int, *, seed: int = 0) -> Scheme:
    """RS-KD: N draws in proportion to p, 24 bits for each class drawn (17 of id, 7 of count)."""
    scheme = ours(f"sampled:{draws_a_row}", classes, seed=seed)

    def encode(logits: Tensor, first: int) -> tuple[SoftLabels, float]:
        labels, _ = scheme.encode(logits, first)
        return labels, 3 * float(np.isfinite(labels.values).sum(axis=1).mean())

    return Scheme(f"RS-KD, {draws_a_row} draws", "unbiased", ours=False, encode=encode)


def polynomial(k: int, exact: int, powers: tuple[float, ...], classes: int) -> Scheme:
    """Top-k: ``exact`` values in bfloat16, the rest from a least-squares fit over the rank, float32 coefficients."""
    # Bit-packed ids, two bytes an exact value, four a coefficient.
    size = math.ceil(k * math.ceil(math.log2(classes)) / 8) + 2 * exact + 4 * len(powers)
    rank = np.linspace(0, 1, k - exact)
    terms = np.stack([rank**power for power in powers], axis=1)

    def encode(logits: Tensor, first: int) -> tuple[SoftLabels, float]:
        values, ids = logits.float().log_softmax(-1).topk(k, dim=-1)
        head_values = values[:, :exact].bfloat16().float().numpy()
        fitted, *_ = np.linalg.lstsq(terms, values[:, exact:].double().numpy().T, rcond=None)
        approximate = (terms @ fitted.astype(np.float32)).T.astype(np.float32)
        joined = np.minimum(np.concatenate([head_values, approximate], axis=1), 0.0)
        return _listed(ids.numpy(), joined, classes, "uniform"), float(size)

    return Scheme(f"polynomial, k={k}, {exact} exact", "exact", ours=False, encode=encode)


def _listed(ids: np.ndarray, values: np.ndarray, classes: int, tail: str) -> SparseLabels:
    """Labels that know of the rest what can be had by subtraction."""
    mass = np.exp(values.astype(np.float64)).sum(axis=1)
    # Where rounding lifts the sum above 1, nothing is left, and the listed values are made to sum to 1.
    values = values - np.log(np.maximum(mass, 1))[:, None]
    log_tail = np.log(np.clip(1 - mass, 1e-9, 1)).astype(np.float32)[:, None]
    return SparseLabels(classes, ids.astype(np.int64), values.astype(np.float32), (1.0,), log_tail, tail)  # type: ignore[arg-type]


RECOMMENDED = (0.0, 1.0, 2.0, 3.0, 4.0, 0.5)
BUDGET = (0.0, 1.0, 0.5)


def figures(logits: Tensor, labels: SoftLabels, block: int = 256) -> dict[str, float]:
    """KL(p || p^) in nats, gradient error E||p^ - p||^2 and bias ||E (p^ - p)||_1, in float64."""
    classes = logits.shape[1]
    kl, error, total = 0.0, 0.0, np.zeros(classes)
    listed = np.isfinite(labels.values).sum() / len(labels) if isinstance(labels, SparseLabels) else classes
    for start in range(0, len(logits), block):
        log_p = logits[start : start + block].double().log_softmax(-1).numpy()
        log_q = labels.take(np.arange(start, min(start + block, len(logits)))).log_probs(1.0).astype(np.float64)
        p, q = np.exp(log_p), np.exp(log_q)
        with np.errstate(invalid="ignore"):
            kl += np.where(p > 0, p * (log_p - log_q), 0.0).sum()
        error += ((q - p) ** 2).sum()
        total += (q - p).sum(axis=0)
    count = len(logits)
    return {"ids": float(listed), "kl": kl / count, "error": error / count, "bias": float(np.abs(total / count).sum())}
